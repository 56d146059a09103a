//! Horizontal flip.

/// Mirrors every row of planes with rows of `width` px, u8 [.., H, width].
pub fn flip_horizontally(planes: &mut [u8], width: usize) {
    for row in planes.chunks_exact_mut(width) {
        row.reverse();
    }
}
