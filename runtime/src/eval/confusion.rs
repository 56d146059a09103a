//! A confusion matrix as a table and as a picture.

use font8x8::UnicodeFonts;
use image::{ImageFormat, Rgb, RgbImage};

use super::Scores;

/// Side of the font's characters, px.
const GLYPH: u32 = 8;
/// Up to this many classes cells carry their counts.
const MOST_NUMBERED: usize = 25;
/// Up to this many classes rows and columns carry their names.
const MOST_NAMED: usize = 100;
/// Characters of a name that are shown.
const MOST_CHARACTERS: usize = 20;

const INK: Rgb<u8> = Rgb([32, 36, 44]);
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Cell without images, and one that holds all of its row.
const SHADES: [[f64; 3]; 2] = [[243.0, 246.0, 250.0], [8.0, 64.0, 129.0]];

/// A CSV table: first row and column are class names, a row for each true class, counts of predictions.
pub fn confusion_csv(scores: &Scores) -> String {
    let mut text = String::from("true class \\ predicted");
    scores.classes.iter().for_each(|class| text += &format!(",{}", csv_field(class)));
    text.push('\n');
    for (class, row) in scores.classes.iter().zip(scores.confusion.rows()) {
        text += &csv_field(class);
        row.iter().for_each(|count| text += &format!(",{count}"));
        text.push('\n');
    }
    text
}

/// A CSV table with a row for each class: name, test images, top-1 and top-5 accuracy (0 to 1, empty without test images).
pub fn per_class_csv(scores: &Scores) -> String {
    let share = |share: Option<f64>| share.map_or(String::new(), |share| format!("{share:.4}"));
    let mut text = String::from("class,images,top1,top5\n");
    for (index, class) in scores.classes.iter().enumerate() {
        let score = scores.class(index);
        text += &format!("{},{},{},{}\n", csv_field(class), score.images, share(score.top1), share(score.top5));
    }
    text
}

/// A field of a CSV line, quoted where it has to be (RFC 4180).
pub(crate) fn csv_field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// The matrix as PNG bytes: rows are true classes, columns predictions, darkness is the share of the row's images.
pub fn confusion_png(scores: &Scores) -> Vec<u8> {
    let classes = scores.classes.len();
    let numbered = classes <= MOST_NUMBERED;
    let named = classes <= MOST_NAMED;
    let most = scores.confusion.iter().max().map_or(1, |most| most.to_string().len()) as u32;
    let cell = match classes {
        _ if numbered => (GLYPH * most + 8).max(32),
        _ if named => 12,
        ..1000 => (1000 / classes as u32).max(1),
        _ => 1,
    };
    let longest = scores.classes.iter().map(|class| class.chars().count().min(MOST_CHARACTERS)).max().unwrap_or(0) as u32;
    let margin = GLYPH * 2 + if named { longest * GLYPH + 8 } else { 8 };
    let side = cell * classes as u32;
    let mut picture = RgbImage::from_pixel(margin + side + GLYPH, margin + side + GLYPH, PAPER);

    write(&mut picture, "predicted", margin, 4, INK, Direction::Right);
    write(&mut picture, "true", 4, margin + 4 * GLYPH, INK, Direction::Up);
    for (row, counts) in scores.confusion.rows().into_iter().enumerate() {
        let images = counts.sum().max(1);
        for (column, &count) in counts.iter().enumerate() {
            let share = f64::from(count) / f64::from(images);
            let shade = Rgb(std::array::from_fn(|c| (SHADES[0][c] + (SHADES[1][c] - SHADES[0][c]) * share) as u8));
            let (left, top) = (margin + column as u32 * cell, margin + row as u32 * cell);
            let gap = u32::from(cell > 4);
            fill(&mut picture, [left, top, left + cell - gap, top + cell - gap], shade);
            if numbered && count > 0 {
                let text = count.to_string();
                let ink = if share > 0.5 { PAPER } else { INK };
                write(&mut picture, &text, left + (cell - text.len() as u32 * GLYPH) / 2, top + (cell - GLYPH) / 2, ink, Direction::Right);
            }
        }
        if named {
            let name: String = scores.classes[row].chars().take(MOST_CHARACTERS).collect();
            let middle = margin + row as u32 * cell + (cell - GLYPH) / 2;
            let width = name.chars().count() as u32 * GLYPH;
            write(&mut picture, &name, margin - 6 - width, middle, INK, Direction::Right);
            write(&mut picture, &name, middle, margin - 6, INK, Direction::Up);
        }
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).expect("an RGB picture in memory is always written");
    bytes.into_inner()
}

#[derive(Clone, Copy)]
enum Direction {
    /// From (x, y), the upper left corner, to the right.
    Right,
    /// From (x, y), the lower left corner of the turned text, upwards.
    Up,
}

fn fill(picture: &mut RgbImage, [left, top, right, bottom]: [u32; 4], colour: Rgb<u8>) {
    for y in top..bottom {
        for x in left..right {
            picture.put_pixel(x, y, colour);
        }
    }
}

/// Writes a line; characters that the font does not have become `?`.
fn write(picture: &mut RgbImage, text: &str, x: u32, y: u32, ink: Rgb<u8>, direction: Direction) {
    let glyph = |character| font8x8::BASIC_FONTS.get(character).or_else(|| font8x8::LATIN_FONTS.get(character)).or_else(|| font8x8::BASIC_FONTS.get('?'));
    for (place, character) in text.chars().enumerate() {
        let rows = glyph(character).unwrap_or_default();
        for (down, bits) in rows.into_iter().enumerate() {
            for right in (0..GLYPH).filter(|right| bits >> right & 1 == 1) {
                let along = place as u32 * GLYPH + right;
                let (px, py) = match direction {
                    Direction::Right => (x + along, y + down as u32),
                    Direction::Up => (x + down as u32, y.saturating_sub(along)),
                };
                if px < picture.width() && py < picture.height() {
                    picture.put_pixel(px, py, ink);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(classes: usize) -> Scores {
        let names: Vec<String> = (0..classes).map(|class| format!("class, {class}")).collect();
        let labels: Vec<usize> = (0..4 * classes).map(|image| image % classes).collect();
        let rankings = labels.iter().map(|&label| vec![label / 2]).collect();
        Scores::new(&rankings, &labels, &names)
    }

    #[test]
    fn tables_quote_names_and_hold_the_counts() {
        let scores = scores(2);
        assert_eq!(confusion_csv(&scores), "true class \\ predicted,\"class, 0\",\"class, 1\"\n\"class, 0\",4,0\n\"class, 1\",4,0\n");
        assert_eq!(per_class_csv(&scores), "class,images,top1,top5\n\"class, 0\",4,1.0000,1.0000\n\"class, 1\",4,0.0000,0.0000\n");
    }

    #[test]
    fn the_picture_shows_full_and_empty_cells_for_few_and_many_classes() {
        for classes in [2, 30, 300, 1500] {
            let picture = image::load_from_memory(&confusion_png(&scores(classes))).expect("a picture").into_rgb8();
            let side = (picture.width() - 2 * GLYPH) / classes as u32;
            assert!(picture.width() == picture.height() && side >= 1 && picture.width() < 1700, "{classes}: {}", picture.width());
            let dark = picture.pixels().filter(|pixel| pixel.0 == SHADES[1].map(|value| value as u8)).count();
            assert!(dark >= classes, "every class has a cell with all of its images: {dark}");
        }
    }
}
