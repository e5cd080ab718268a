//! `linux.graphics.fbdev`: what is on the screens that the kernel draws on itself.
//!
//! Source: `registered_fb` (`struct fb_info`, `include/uapi/linux/fb.h`). The picture is written as PNG, with the colours that the layout of the
//! pixels tells; a layout of another kind (FOURCC) and memory that is the card's own are written or told as they are.

use std::io;

use serde_json::json;

use super::super::cells::{text, uint};
use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel, Object};
use crate::image::InMemory;
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("address"),
    Column("device"),
    Column("id"),
    Column("size"),
    Column("virtual_resolution"),
    Column("bpp"),
    Column("state"),
    Column("file_output"),
];

/// Screens (`FB_MAX`), and bytes of one.
const MOST: u64 = 32;
const MOST_BYTES: u64 = 1 << 28;

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    // In the kernel, in a module, or not there at all: then there are no such screens.
    let of_module = || kernel.module_symbols(ask).iter().find(|symbol| symbol.name == "registered_fb");
    let table = kernel.symbols.address("registered_fb").or_else(|| of_module().map(|symbol| symbol.address));
    let Some(table) = table else { return Ok(()) };
    for n in 0..MOST {
        let at = kernel.space.u64(table.wrapping_add(8 * n))?;
        if at == 0 {
            continue;
        }
        let info = kernel.object("fb_info", at)?;
        let picture = write(&info, ask, n);
        let output = picture.unwrap_or_else(|error| {
            ask.note(format!("the screen {n}: {error}"));
            Cell::Absent(error.absent())
        });
        let sides = info.u64("var.xres_virtual").and_then(|x| Ok(format!("{x}x{}", info.u64("var.yres_virtual")?)));
        rows.row(vec![
            super::super::cells::address(info.u64("screen_base")),
            text(info.text("dev.kobj.name")),
            text(info.text("fix.id")),
            uint(info.u64("fix.line_length").and_then(|line| Ok(line.wrapping_mul(info.u64("var.yres_virtual")?)))),
            text(sides),
            uint(info.u64("var.bits_per_pixel")),
            text(info.u64("state").map(|state| if state == 0 { "RUNNING" } else { "SUSPENDED" }.to_owned())),
            output,
        ])?;
    }
    Ok(())
}

/// How pixels lie in memory.
#[derive(Debug, Clone, Copy)]
struct Layout {
    width: u32,
    height: u32,
    line: usize,
    bits: u32,
    /// First bit and width, of red, green and blue.
    colours: [(u32, u32); 3],
}

impl Layout {
    fn of(info: &Object<'_>) -> Outcome<Self> {
        let number = |path| info.u64(path).map(|value| value as u32);
        let colour = |first, len| Ok::<_, MemoryError>((number(first)?, number(len)?));
        let layout = Self {
            width: number("var.xres_virtual")?,
            height: number("var.yres_virtual")?,
            line: number("fix.line_length")? as usize,
            bits: number("var.bits_per_pixel")?,
            colours: [
                colour("var.red.offset", "var.red.length")?,
                colour("var.green.offset", "var.green.length")?,
                colour("var.blue.offset", "var.blue.length")?,
            ],
        };
        let pixel = u64::from(layout.bits / 8);
        let fits = matches!(layout.bits, 8 | 16 | 24 | 32)
            && layout.width > 0
            && layout.height > 0
            && u64::from(layout.width) * pixel <= layout.line as u64
            && (layout.line as u64).saturating_mul(u64::from(layout.height)) <= MOST_BYTES
            && layout.colours.iter().all(|(first, len)| *len <= 8 && first.saturating_add(*len) <= layout.bits);
        if fits { Ok(layout) } else { Err(MemoryError::corrupt("a screen", info.at, format!("{layout:?}"))) }
    }

    /// Red, green and blue of every pixel, eight bits each.
    fn colours(&self, bytes: &[u8]) -> Vec<u8> {
        let step = (self.bits / 8) as usize;
        let mut all = Vec::new();
        for line in bytes.chunks_exact(self.line).take(self.height as usize) {
            for pixel in line.chunks_exact(step).take(self.width as usize) {
                let value = pixel.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
                all.extend(self.colours.map(|(first, len)| {
                    let most = (1_u32 << len) - 1;
                    // Few bits are spread over all eight: the brightest stays the brightest.
                    (value.checked_shr(first).unwrap_or(0) & most)
                        .checked_mul(255)
                        .and_then(|value| value.checked_div(most))
                        .unwrap_or(0) as u8
                }));
            }
        }
        all
    }

    fn png(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(io::Error::other)?;
        writer.write_image_data(&self.colours(bytes)).map_err(io::Error::other)?;
        writer.finish().map_err(io::Error::other)?;
        Ok(file)
    }
}

fn write(info: &Object<'_>, ask: &Ask, number: u64) -> Outcome<Cell> {
    if !ask.writes() {
        return Ok(super::super::cells::some_text(None));
    }
    let layout = Layout::of(info)?;
    let len = layout.line * layout.height as usize;
    let bytes = info.kernel.space.vec(info.u64("screen_base")?, len)?;
    let name = format!("fb{number}_{}x{}_{}bpp", layout.width, layout.height, layout.bits);
    let more = json!({ "layout": format!("{layout:?}") });
    // 0 and 1 are colours and greys; more is a code of four letters.
    if info.u64("var.grayscale")? > 1 {
        return ask.write("linux.graphics.fbdev", &format!("{name}.raw"), &InMemory(bytes), &more);
    }
    ask.write("linux.graphics.fbdev", &format!("{name}.png"), &InMemory(layout.png(&bytes)?), &more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_of_16_and_32_bits_become_the_same_picture() {
        let rgb565 = Layout { width: 2, height: 1, line: 6, bits: 16, colours: [(11, 5), (5, 6), (0, 5)] };
        // Red and white; the line is longer than its pixels.
        assert_eq!(rgb565.colours(&[0x00, 0xf8, 0xff, 0xff, 9, 9]), [255, 0, 0, 255, 255, 255]);
        let xrgb = Layout { width: 2, height: 2, line: 8, bits: 32, colours: [(16, 8), (8, 8), (0, 8)] };
        let pixels = [0, 0, 255, 0, 255, 255, 255, 0, 1, 2, 3, 0, 0, 0, 0, 0];
        assert_eq!(xrgb.colours(&pixels), [255, 0, 0, 255, 255, 255, 3, 2, 1, 0, 0, 0]);
        let file = xrgb.png(&pixels).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let mut back = vec![0; 12];
        let frame = reader.next_frame(&mut back).unwrap();
        assert_eq!((frame.width, frame.height), (2, 2));
        assert_eq!(back, xrgb.colours(&pixels));
    }
}
