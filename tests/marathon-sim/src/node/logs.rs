//! A container's output, bounded: a file of at most `LIMIT` bytes and one older.

use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt};

const LIMIT: u64 = 4 << 20;

/// Copies until the writers have closed.
pub(crate) async fn pump(mut from: impl AsyncRead + Unpin, to: PathBuf) {
    let mut buffer = vec![0; 16 << 10];
    let Ok((mut file, mut size)) = open(&to) else { return };
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if size > LIMIT {
            let _ = std::fs::rename(&to, older(&to));
            let Ok(fresh) = open(&to) else { return };
            (file, size) = fresh;
        }
        size += n as u64;
        if file.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn open(path: &Path) -> std::io::Result<(std::fs::File, u64)> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

pub(crate) fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}
