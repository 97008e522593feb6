//! Decides which JVM options a spec may give: those that tune the JVM, and none that change what it
//! runs, its heap size, what it loads, or where it writes. Pure.

/// The garbage collectors to choose from. The image's default is G1, the first one.
const COLLECTORS: [&str; 3] = ["UseG1GC", "UseParallelGC", "UseZGC"];
/// Boolean options, as `-XX:+Name` and `-XX:-Name`.
const SWITCHES: [&str; 13] = [
    "AlwaysPreTouch",
    "DisableExplicitGC",
    "ExplicitGCInvokesConcurrent",
    "HeapDumpOnOutOfMemoryError",
    "ParallelRefProcEnabled",
    "PerfDisableSharedMem",
    "UseAdaptiveSizePolicy",
    "UseLargePages",
    "UseNUMA",
    "UseStringDeduplication",
    "UseTransparentHugePages",
    "ZProactive",
    "ZUncommit",
];
/// Options with a number, as `-XX:Name=12` or `-XX:Name=64m`.
const NUMBERS: [&str; 21] = [
    "ActiveProcessorCount",
    "ConcGCThreads",
    "G1HeapRegionSize",
    "G1PeriodicGCInterval",
    "G1ReservePercent",
    "GCTimeRatio",
    "InitiatingHeapOccupancyPercent",
    "MaxDirectMemorySize",
    "MaxGCPauseMillis",
    "MaxMetaspaceSize",
    "MaxTenuringThreshold",
    "MetaspaceSize",
    "NewRatio",
    "ParallelGCThreads",
    "ReservedCodeCacheSize",
    "SoftMaxHeapSize",
    "SoftRefLRUPolicyMSPerMB",
    "SurvivorRatio",
    "ThreadStackSize",
    "ZCollectionInterval",
    "ZUncommitDelay",
];
/// Prefixes of system properties.
const PROPERTIES: [&str; 12] = [
    "aws.",
    "http.nonProxyHosts",
    "http.proxy",
    "https.proxy",
    "java.net.prefer",
    "javax.net.ssl.trustStore",
    "jdk.nio.maxCachedBufferSize",
    "jdk.tls.",
    "networkaddress.cache.",
    "sun.net.inetaddr.",
    "user.language",
    "user.timezone",
];
/// The longest option that is accepted.
pub const OPTION_CHARS_MAX: usize = 256;

/// Why an option is refused; `None` if it is allowed.
pub fn refuse(option: &str) -> Option<String> {
    if option.len() > OPTION_CHARS_MAX
        || !option.chars().all(|c| c.is_ascii_graphic())
        || option.contains("$(")
    {
        return Some(format!(
            "not one option of at most {OPTION_CHARS_MAX} printable characters; correct it"
        ));
    }
    if ["-Xms", "-Xmx", "-Xmn"]
        .iter()
        .any(|size| option.starts_with(size))
    {
        return Some("Freehold sets the size of the heap; use jvm.heap".into());
    }
    let allowed = if let Some(switch) = option
        .strip_prefix("-XX:+")
        .or_else(|| option.strip_prefix("-XX:-"))
    {
        SWITCHES.contains(&switch) || (option.starts_with("-XX:+") && COLLECTORS.contains(&switch))
    } else if let Some((name, value)) = option
        .strip_prefix("-XX:")
        .and_then(|rest| rest.split_once('='))
    {
        (NUMBERS.contains(&name) && is_amount(value)) || (name == "HeapDumpPath" && is_path(value))
    } else if let Some((name, _)) = option
        .strip_prefix("-D")
        .and_then(|rest| rest.split_once('='))
    {
        PROPERTIES.iter().any(|known| name.starts_with(known))
    } else if let Some(what) = option.strip_prefix("-Xlog:") {
        // GC logs go to the container's log only: a file would grow until the volume is full.
        ["gc", "safepoint"].iter().any(|tag| what.starts_with(tag))
            && !what.contains("file")
            && !what.contains('/')
    } else {
        option.strip_prefix("-Xss").is_some_and(is_amount)
    };
    (!allowed).then(|| {
        "not among the options that may be given (docs/reference/jvm-options.md); remove it"
            .to_owned()
    })
}

/// Why these options cannot be used together; `None` if they can.
pub fn refuse_all(options: &[String]) -> Option<String> {
    let chosen: Vec<&str> = options
        .iter()
        .filter_map(|option| option.strip_prefix("-XX:+"))
        .filter(|name| COLLECTORS.contains(name))
        .collect();
    (chosen.len() > 1).then(|| {
        format!(
            "{} are several garbage collectors; choose one",
            chosen.join(", ")
        )
    })
}

/// The options that the JVM is started with. Another garbage collector replaces the image's
/// default.
pub fn arguments(options: &[String]) -> Vec<String> {
    let is_other = |option: &String| {
        option
            .strip_prefix("-XX:+")
            .is_some_and(|name| COLLECTORS[1..].contains(&name))
    };
    let mut all: Vec<String> = Vec::new();
    if options.iter().any(is_other) {
        all.push("-XX:-UseG1GC".into());
    }
    all.extend(options.iter().cloned());
    all
}

/// The page of the reference with all options that are allowed.
pub fn reference() -> String {
    let lines = |of: &[&str], form: &dyn Fn(&str) -> String| {
        of.iter()
            .map(|name| format!("- `{}`\n", form(name)))
            .collect::<String>()
    };
    format!(
        "# Options of the JVM\n\nWhat `spec.nodePools[].jvm.options` may hold. Everything else is refused: it would change what a node runs, how large its heap \
         is (`jvm.heap`), what it loads or where it writes.\n\n## Garbage collector: one of\n\n{}\n## Switches, with + or -\n\n{}\n## Numbers\n\n{}\n## \
         Others\n\n- `-XX:HeapDumpPath=/folder`, of a volume of `podTemplate`\n- `-Xss1m`\n- `-Xlog:gc…` and `-Xlog:safepoint…`, into the container's log\n{}",
        lines(&COLLECTORS, &|name| format!("-XX:+{name}")),
        lines(&SWITCHES, &|name| format!("-XX:+{name}")),
        lines(&NUMBERS, &|name| format!("-XX:{name}=…")),
        lines(&PROPERTIES, &|name| format!("-D{name}…=…")),
    )
}

/// True for digits, with or without a unit at the end.
fn is_amount(text: &str) -> bool {
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    text.len() <= digits.len() + 1
        && (1..=18).contains(&digits.len())
        && digits.chars().all(|c| c.is_ascii_digit())
}

fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.contains("..")
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_tune_are_taken_and_others_are_not() {
        for option in [
            "-XX:+UseZGC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:G1HeapRegionSize=16M",
            "-XX:-UseAdaptiveSizePolicy",
            "-XX:MaxDirectMemorySize=512m",
            "-XX:HeapDumpPath=/dumps/kafka",
            "-Djava.net.preferIPv6Addresses=true",
            "-Dhttps.proxyHost=proxy.example.com",
            "-Xlog:gc*:stdout:time,level",
            "-Xss512k",
        ] {
            assert_eq!(refuse(option), None, "{option}");
        }
        for option in [
            "",
            "-Xmx4g",
            "-XX:-UseG1GC",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-ExitOnOutOfMemoryError",
            "-XX:OnOutOfMemoryError=reboot",
            "-XX:MaxRAMPercentage=90",
            "-XX:MaxGCPauseMillis=soon",
            "-XX:G1HeapRegionSize=16MM",
            "-XX:HeapDumpPath=/dumps/../etc",
            "-javaagent:/opt/agent.jar",
            "-agentlib:jdwp",
            "-cp",
            "@/opt/other.args",
            "dev.example.Other",
            "-Djava.security.manager=allow",
            "-Dlog4j2.configurationFile=/x",
            "-Dhttps.proxyHost=$(POD_NAME)",
            "-Duser.timezone=UTC -Xmx9g",
            "-Xlog:gc:file=/var/lib/kafka/data/gc.log",
            "-Xlog:all",
        ] {
            assert!(refuse(option).is_some(), "{option}");
        }
        assert!(refuse("-Xmx4g").unwrap().contains("jvm.heap"));
    }

    #[test]
    fn another_collector_takes_the_place_of_the_image_s_own() {
        let options = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            arguments(&options(&["-XX:+UseZGC"])),
            ["-XX:-UseG1GC", "-XX:+UseZGC"]
        );
        assert_eq!(
            arguments(&options(&["-XX:+UseG1GC", "-Xss1m"])),
            ["-XX:+UseG1GC", "-Xss1m"]
        );
        assert_eq!(arguments(&[]), [""; 0]);
        assert!(
            refuse_all(&options(&["-XX:+UseZGC", "-XX:+UseParallelGC"]))
                .unwrap()
                .contains("choose one")
        );
        assert_eq!(refuse_all(&options(&["-XX:+UseZGC", "-Xss1m"])), None);
    }

    #[test]
    fn the_reference_names_every_option() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/reference/jvm-options.md"
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            reference(),
            "UPDATE_GOLDEN=1 writes it"
        );
    }
}
