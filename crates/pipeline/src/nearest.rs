//! The name that was probably meant, for errors about a name that there is not. Pure.

/// Longest names that are compared: the time grows with the square.
const CHARS_MAX: usize = 64;

/// What to write instead: `did you mean from?`, or `there are: a, b` where no name is near.
pub fn instead<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(wrong, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "there are none".to_owned(),
        None => format!("there are: {}", known.join(", ")),
    }
}

/// The known name that is nearest, if a slip of the keyboard is between them: another case, or a
/// letter that is wrong, missing, too many or exchanged with its neighbour, in four letters each.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = wrong.chars().count();
    if letters > CHARS_MAX {
        return None;
    }
    let slips = (letters / 4).max(1);
    let known = known.into_iter().filter(|name| {
        let other = name.chars().count();
        *name != wrong && other <= CHARS_MAX && other.abs_diff(letters) <= slips
    });
    let near = known.map(|name| (distance(&wrong.to_lowercase(), &name.to_lowercase()), name));
    near.filter(|(distance, name)| *distance <= slips && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Letters that are wrong, missing, too many or exchanged with their neighbour (the optimal string
/// alignment distance).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, letter) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in to.iter().enumerate() {
            let changed = rows[i][j] + usize::from(letter != other);
            let mut least = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *letter == to[j - 1] && from[i - 1] == *other {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_the_name_and_other_words_find_none() {
        for (wrong, meant) in [
            ("form", Some("from")),
            ("sorce", Some("source")),
            ("From", Some("from")),
            ("transfrom", Some("transform")),
            ("onerror", Some("onError")),
            ("fliter", Some("filter")),
            ("x", None),
            ("kafka", None),
            ("", None),
        ] {
            let known = ["from", "source", "transform", "filter", "onError", "a"];
            assert_eq!(nearest(wrong, known), meant, "{wrong}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), ["a"]), None);
        assert_eq!(
            nearest("payments-euro", ["payments-eur"]),
            Some("payments-eur")
        );
    }

    #[test]
    fn without_a_near_name_all_are_listed() {
        assert_eq!(instead("vlue", ["key", "value"]), "did you mean value?");
        assert_eq!(instead("body", ["key", "value"]), "there are: key, value");
        assert_eq!(instead("body", []), "there are none");
    }
}
