//! The codes of a broker in words (MQTT 5.0, section 2.4).

/// What a code of CONNACK says.
pub fn refused(code: u8) -> String {
    let why = match code {
        1 => "it does not speak this version of MQTT",
        2 => "it does not take this client id",
        3 => "it is not available",
        4 => "user or password is wrong",
        5 => "not authorized",
        code => reason(code),
    };
    format!("the broker refuses the connection: {why}")
}

/// What a reason code of MQTT 5 says.
pub fn reason(code: u8) -> &'static str {
    match code {
        0x00 => "no reason is given",
        0x80 => "no reason is given (0x80)",
        0x83 => "it has a reason of its own (0x83)",
        0x84 => "it does not speak this version of MQTT",
        0x85 => "it does not take this client id",
        0x86 => "user or password is wrong",
        0x87 => "not authorized",
        0x88 => "it is not available",
        0x89 => "it is busy",
        0x8a => "the client is banned",
        0x8b => "it shuts down",
        0x8d => "keep alive timeout",
        0x8e => "another client has taken the session over",
        0x8f => "the topic filter is not valid",
        0x90 => "the topic is not valid",
        0x93 => "too many messages are not acknowledged",
        0x95 => "a packet is too large",
        0x97 => "a quota is exceeded",
        0x99 => "the content is not as it wants",
        0x9b => "it does not know this QoS",
        0x9e => "it has no shared subscriptions",
        0x9f => "too many connections",
        _ => "its reason is unknown",
    }
}
