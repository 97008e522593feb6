//! A file of lines, compressed while it grows.

use std::io::{self, Write as _};

use freehold_pipeline::sink::FileCompression;

/// zstd's window is 128 KiB: its default takes some mebibytes for each partition.
const ZSTD_WINDOW_LOG: u32 = 17;
const ZSTD_LEVEL: i32 = 1;

/// Compresses lines.
pub enum Writer {
    None(Vec<u8>),
    Gzip(Box<flate2::write::GzEncoder<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Writer {
    /// An empty file.
    ///
    /// # Errors
    /// There is no memory for the compressor.
    pub fn new(compression: FileCompression) -> io::Result<Self> {
        Ok(match compression {
            FileCompression::None => Self::None(Vec::new()),
            FileCompression::Gzip => {
                let level = flate2::Compression::default();
                Self::Gzip(Box::new(flate2::write::GzEncoder::new(Vec::new(), level)))
            }
            FileCompression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                let window = zstd::zstd_safe::CParameter::WindowLog(ZSTD_WINDOW_LOG);
                encoder.set_parameter(window)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// The compressor has failed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::None(file) => file.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    /// Bytes of memory of what is compressed. The compressor itself has 300 to 500 KiB more.
    pub fn held(&self) -> usize {
        match self {
            Self::None(file) => file.capacity(),
            Self::Gzip(encoder) => encoder.get_ref().capacity(),
            Self::Zstd(encoder) => encoder.get_ref().capacity(),
        }
    }

    /// The whole file.
    ///
    /// # Errors
    /// The compressor has failed.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::None(file) => Ok(file),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// What the names of files of lines end with.
pub fn ending(compression: FileCompression) -> &'static str {
    match compression {
        FileCompression::None => "ndjson",
        FileCompression::Gzip => "ndjson.gz",
        FileCompression::Zstd => "ndjson.zst",
    }
}

/// The media type of a file.
pub fn media_type(compression: FileCompression) -> &'static str {
    match compression {
        FileCompression::None => "application/x-ndjson",
        FileCompression::Gzip => "application/gzip",
        FileCompression::Zstd => "application/zstd",
    }
}
