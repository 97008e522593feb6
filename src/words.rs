//! Builds texts for users. Their length is limited, whatever an object or an answer contains. Pure.

/// Maximum length of a condition's message, of an event's message and of a log line.
pub const MESSAGE_CHARS_MAX: usize = 1500;
/// Maximum length of one part of a message: the path of a field, or a value.
pub const PART_CHARS_MAX: usize = 400;
/// Maximum number of items in the list of a message.
pub const LISTED_MAX: usize = 20;

/// Shortens a text that is too long, and marks the cut with `…`.
pub fn cut(text: impl Into<String>, chars_max: usize) -> String {
    let text = text.into();
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The same by the number of bytes, the mark included.
pub fn cut_to_bytes(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub("…".len()));
    format!("{}…", &text[..end])
}

/// The first items of a list, and how many more there are.
pub fn listed(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(LISTED_MAX);
    let mut parts: Vec<_> = all.take(LISTED_MAX).collect();
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

/// Node ids as text.
pub fn ids<'a>(ids: impl IntoIterator<Item = &'a i32>) -> String {
    ids.into_iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_characters_and_shows_it() {
        assert_eq!(cut("größer", 6), "größer");
        assert_eq!(cut("größer", 4), "größ…");
        assert_eq!(
            cut("x".repeat(1_500_000), MESSAGE_CHARS_MAX)
                .chars()
                .count(),
            MESSAGE_CHARS_MAX + 1
        );
    }

    #[test]
    fn bytes_are_counted_as_they_are_written() {
        assert_eq!(cut_to_bytes("größer", 8), "größer");
        assert_eq!(cut_to_bytes("größer", 7), "grö…");
        // One letter of several bytes takes no room from the others.
        let long = format!("ö{}", "x".repeat(2_000));
        let cut = cut_to_bytes(&long, 1_000);
        assert_eq!((cut.len(), cut.chars().count()), (1_000, 997));
    }

    #[test]
    fn a_list_tells_how_many_are_left_out() {
        assert_eq!(listed(["a", "b"].map(str::to_owned).into_iter()), "a; b");
        let many: Vec<_> = (0..25).map(|index| index.to_string()).collect();
        assert!(listed(many.into_iter()).ends_with("19; and 5 more"));
    }
}
