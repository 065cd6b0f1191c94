//! Encrypts and decrypts with the published crate, for the tests beside it.
//!
//!     selfenc-judge encrypt FILE STORE MAP
//!     selfenc-judge decrypt FILE STORE MAP
//!     selfenc-judge bench FILE
//!
//! bench encrypts and decrypts FILE once, in memory, and prints for each how long it took and how
//! much processor time, in nanoseconds, and how many bytes the chunks have.
//!
//! STORE is a chunk store's directory; MAP a serialised data map.

use bytes::Bytes;
use self_encryption::{decrypt, encrypt, get_root_data_map, DataMap, DataMapIndex, EncryptedChunk, Error, XorName};
use rustix::time::{clock_gettime, ClockId};
use std::{env, error, fs, path::Path, path::PathBuf, process, time::Instant};

type Result<T> = std::result::Result<T, Box<dyn error::Error>>;

/// Where our store keeps a chunk: se36/XX/NAME.
fn place(store: &Path, name: &XorName) -> PathBuf {
    let hex: String = name.0.iter().map(|b| format!("{b:02x}")).collect();
    store.join("se36").join(&hex[..2]).join(hex)
}

fn encrypt_file(file: &Path, store: &Path, map: &Path) -> Result<()> {
    let (data_map, chunks) = encrypt(Bytes::from(fs::read(file)?))?;
    for chunk in chunks {
        let name = XorName(*blake3::hash(&chunk.content).as_bytes());
        let at = place(store, &name);
        fs::create_dir_all(at.parent().ok_or("no parent")?)?;
        fs::write(at, &chunk.content)?;
    }
    fs::write(map, data_map.to_bytes()?)?;
    Ok(())
}

fn decrypt_file(file: &Path, store: &Path, map: &Path) -> Result<()> {
    let data_map = DataMap::from_bytes(&fs::read(map)?)?;
    let mut all: Vec<EncryptedChunk> = Vec::new();
    let mut get = |name: XorName| -> self_encryption::Result<Bytes> {
        let content = Bytes::from(fs::read(place(store, &name)).map_err(Error::Io)?);
        all.push(EncryptedChunk { content: content.clone() });
        Ok(content)
    };
    let root = get_root_data_map(data_map.clone(), &mut get)?;
    // Chunk by chunk, which verifies the plaintext's hash ...
    let index = DataMapIndex::new(&root)?;
    let mut plain = Vec::new();
    for info in root.infos() {
        let content = get(info.dst_hash)?;
        plain.extend_from_slice(&index.decrypt_chunk(info.index, &content)?);
    }
    // ... and at once.
    if decrypt(&data_map, &all)? != plain {
        return Err("the crate's two ways of decrypting disagree".into());
    }
    fs::write(file, plain)?;
    Ok(())
}

/// Calls f and prints what it took.
fn timed<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let cpu = || {
        let t = clock_gettime(ClockId::ProcessCPUTime); // of all threads
        t.tv_sec * 1_000_000_000 + t.tv_nsec
    };
    let (start, used) = (Instant::now(), cpu());
    let result = f();
    println!("{what} {} {}", start.elapsed().as_nanos(), cpu() - used);
    result
}

fn bench(file: &Path) -> Result<()> {
    let plain = Bytes::from(fs::read(file)?);
    let (map, chunks) = timed("encrypt", || encrypt(plain.clone()))?;
    if timed("decrypt", || decrypt(&map, &chunks))? != plain {
        return Err("something else was decrypted".into());
    }
    println!("stored {}", chunks.iter().map(|c| c.content.len()).sum::<usize>());
    Ok(())
}

fn main() {
    let args: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let done = match args.iter().map(PathBuf::as_path).collect::<Vec<_>>()[..] {
        [verb, file, store, map] if verb == Path::new("encrypt") => encrypt_file(file, store, map),
        [verb, file, store, map] if verb == Path::new("decrypt") => decrypt_file(file, store, map),
        [verb, file] if verb == Path::new("bench") => bench(file),
        _ => Err("usage: selfenc-judge encrypt|decrypt FILE STORE MAP, or bench FILE".into()),
    };
    if let Err(e) = done {
        eprintln!("selfenc-judge: {e}");
        process::exit(1);
    }
}
