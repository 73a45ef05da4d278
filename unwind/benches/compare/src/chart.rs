//! A chart of all rows: a bar for each side, on a logarithmic scale.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::report::Row;

/// Pixels of a bar, of the names, and of the whole width.
const BAR: i32 = 18;
const NAMES: i32 = 230;
const WIDTH: i32 = 1000;

/// Draws it.
pub fn draw(path: &Path, rows: &[Row]) -> Result<()> {
    let bars: usize = rows.iter().map(|row| row.sides.len() + 2).sum();
    let size = (WIDTH as u32, bars as u32 * BAR as u32 + BAR as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font();
    let mut y = BAR / 2;
    for row in rows {
        area.draw(&Text::new(format!("{} ({})", row.name, row.unit), (8, y), text(14)))?;
        y += BAR;
        let values = || row.sides.iter().map(|(_, value)| value.max(0.01).ln());
        let low = values().fold(f64::INFINITY, f64::min) - 0.5;
        let high = values().fold(f64::NEG_INFINITY, f64::max).max(low + 1.0);
        for (place, (name, value)) in row.sides.iter().enumerate() {
            let length =
                (value.max(0.01).ln() - low) / (high - low) * f64::from(WIDTH - NAMES - 90);
            let end = NAMES + length.max(1.0) as i32;
            let color = if place == 0 { RGBColor(200, 80, 30) } else { RGBColor(110, 130, 160) };
            let bar = [(NAMES, y + 2), (end, y + BAR - 2)];
            area.draw(&Text::new(name.clone(), (24, y + 3), text(12)))?;
            area.draw(&Rectangle::new(bar, color.filled()))?;
            area.draw(&Text::new(format!("{value:.2}"), (end + 6, y + 3), text(12)))?;
            y += BAR;
        }
        y += BAR;
    }
    area.present()?;
    Ok(())
}
