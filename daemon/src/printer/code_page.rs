//! Text for a printer: bytes of its code page, and nothing else.
//!
//! What comes in is from outside. No byte that goes out is a control character, so no order can put a command into the stream. What
//! the code page lacks is written with the letters that it has; what has no such letters becomes a question mark.

use crate::config::CodePage;

/// The characters of the bytes from 128 on; zero where there is none.
const PC437: &str =
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\0";
const PC858: &str =
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈ€ÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\0±‗¾¶§÷¸°¨·¹³²■\0";
const WPC1252: &str = "€\0‚ƒ„…†‡ˆ‰Š‹Œ\0Ž\0\0‘’“”•–—˜™š›œ\0žŸ\0¡¢£¤¥¦§¨©ª«¬\0®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ";

/// The letters below the accents of U+00C0 to U+00FF, U+0100 to U+017F and U+1E00 to U+1EFF.
const LATIN_1: &str = "AAAAAA?CEEEEIIIIDNOOOOOxOUUUUY??aaaaaa?ceeeeiiiidnooooo?ouuuuy?y";
const LATIN_A: &str =
    "AaAaAaCcCcCcCcDdDdEeEeEeEeEeGgGgGgGgHhHhIiIiIiIiIi??JjKkkLlLlLlLlLlNnNnNnnNnOoOoOo??RrRrRrSsSsSsSsTtTtTtUuUuUuUuUuUuWwYyYZzZzZzs";
const LATIN_ADDITIONAL: &str = "AaBbBbBbCcDdDdDdDdDdEeEeEeEeEeFfGgHhHhHhHhHhIiIiKkKkKkLlLlLlLlMmMmMmNnNnNnNnOoOoOoOoPpPpRrRrRrRrSsSsSsSsSsTtTtTtTtUuUuUuUuUuVvVvWwWwWwWwWwXxXxYyZzZzZzhtwy??????AaAaAaAaAaAaAaAaAaAaAaAaEeEeEeEeEeEeEeEeIiIiOoOoOoOoOoOoOoOoOoOoOoOoUuUuUuUuUuUuUuYyYyYyYy??????";

/// What is written with other characters, before accents are taken away.
const SPELLED: [(char, &str); 42] = [
    ('€', "EUR"),
    ('£', "GBP"),
    ('¥', "JPY"),
    ('¢', "c"),
    ('…', "..."),
    ('–', "-"),
    ('—', "-"),
    ('‐', "-"),
    ('‑', "-"),
    ('−', "-"),
    ('‘', "'"),
    ('’', "'"),
    ('‚', "'"),
    ('‹', "'"),
    ('›', "'"),
    ('“', "\""),
    ('”', "\""),
    ('„', "\""),
    ('«', "\""),
    ('»', "\""),
    ('×', "x"),
    ('÷', "/"),
    ('•', "*"),
    ('·', "."),
    ('™', "(TM)"),
    ('©', "(C)"),
    ('®', "(R)"),
    ('°', "o"),
    ('½', "1/2"),
    ('¼', "1/4"),
    ('¾', "3/4"),
    ('¹', "1"),
    ('²', "2"),
    ('³', "3"),
    ('ß', "ss"),
    ('ẞ', "SS"),
    ('Æ', "AE"),
    ('æ', "ae"),
    ('Œ', "OE"),
    ('œ', "oe"),
    ('Þ', "Th"),
    ('þ', "th"),
];

impl CodePage {
    /// The number by which `ESC t` selects it.
    pub fn number(self) -> u8 {
        match self {
            CodePage::Pc437 => 0,
            CodePage::Wpc1252 => 16,
            CodePage::Pc858 => 19,
        }
    }

    fn high(self) -> &'static str {
        match self {
            CodePage::Pc437 => PC437,
            CodePage::Pc858 => PC858,
            CodePage::Wpc1252 => WPC1252,
        }
    }

    /// The text in this code page: bytes from 32 to 126 and from 128 on, each a column wide. Line ends and tabs become spaces.
    pub fn encode(self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(text.len());
        for character in text.chars() {
            match character {
                ' '..='~' => bytes.push(character as u8),
                '\n' | '\t' | '\u{a0}' | '\u{202f}' | '\u{2009}' => bytes.push(b' '),
                _ if is_invisible(character) => {}
                _ => match self.byte(character) {
                    Some(byte) => bytes.push(byte),
                    None => spell(character, &mut bytes),
                },
            }
        }
        bytes
    }

    fn byte(self, character: char) -> Option<u8> {
        let place = self.high().chars().position(|known| known == character)?;
        u8::try_from(place + 128).ok()
    }
}

/// Controls, joiners, marks of direction, and accents that follow their letter.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(character, '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

fn spell(character: char, bytes: &mut Vec<u8>) {
    if let Some((_, spelled)) = SPELLED.iter().find(|(known, _)| *known == character) {
        return bytes.extend_from_slice(spelled.as_bytes());
    }
    let tables = [(0xc0, LATIN_1), (0x100, LATIN_A), (0x1e00, LATIN_ADDITIONAL)];
    let letter = tables.iter().find_map(|(first, letters)| letters.as_bytes().get(usize::try_from(character).ok()?.checked_sub(*first)?));
    bytes.push(letter.copied().unwrap_or(b'?'));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [CodePage; 3] = [CodePage::Pc437, CodePage::Pc858, CodePage::Wpc1252];

    #[test]
    fn a_code_page_has_128_characters_beside_the_plain_ones() {
        for page in ALL {
            assert_eq!(page.high().chars().count(), 128, "{page:?}");
        }
        assert_eq!((LATIN_1.len(), LATIN_A.len(), LATIN_ADDITIONAL.len()), (64, 128, 256));
    }

    #[test]
    fn the_bytes_are_those_of_the_tables() {
        assert_eq!(CodePage::Pc437.encode("Crème ½ ß"), b"Cr\x8ame \xab \xe1");
        assert_eq!(CodePage::Pc858.encode("Käse 3 € ñ"), b"K\x84se 3 \xd5 \xa4");
        assert_eq!(CodePage::Wpc1252.encode("Käse 3 € ñ “x”"), b"K\xe4se 3 \x80 \xf1 \x93x\x94");
    }

    #[test]
    fn what_a_code_page_lacks_is_spelled() {
        assert_eq!(CodePage::Pc437.encode("3 € – Łódź, Phở, Ørsted"), b"3 EUR - L\xa2dz, Pho, Orsted");
        assert_eq!(CodePage::Pc858.encode("œuf „x“ … e\u{301} 拉面"), b"oeuf \"x\" ... e ??");
    }

    /// Every character that there is.
    #[test]
    fn no_character_becomes_a_control_byte() {
        for page in ALL {
            for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
                let bytes = page.encode(character.encode_utf8(&mut [0; 4]));
                assert!(bytes.iter().all(|byte| *byte >= b' ' && *byte != 0x7f), "{page:?} {character:?} {bytes:?}");
            }
        }
        assert_eq!(CodePage::Pc858.encode("a\u{1b}@b\u{10}\u{4}\u{1}c\u{1d}V\0d\u{9b}e"), b"a@bcVde");
    }
}
