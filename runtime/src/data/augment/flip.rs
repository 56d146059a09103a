//! Horizontal flip.

/// Mirrors every row of planes with rows of `width` px, u8 [.., H, width].
pub fn flip_horizontally(planes: &mut [u8], width: usize) {
    for row in planes.chunks_exact_mut(width) {
        row.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_mirrored_in_every_plane() {
        let mut planes = vec![1, 2, 3, 4, 5, 6];
        flip_horizontally(&mut planes, 3);
        assert_eq!(planes, [3, 2, 1, 6, 5, 4]);
    }
}
