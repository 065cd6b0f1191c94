//! judge PATH BLOCK_BYTES KEY_HEX: opens the image with doublecrypt-core and does what standard input
//! says, a command a line with its words separated by spaces. It answers each with one line:
//! `ok`, `ok RESULT` or `err CODE`. Contents are in hexadecimal; paths hold no spaces.

use doublecrypt_core::block_store::DiskBlockStore;
use doublecrypt_core::crypto::ChaChaEngine;
use doublecrypt_core::error::{FsError, FsErrorCode};
use doublecrypt_core::fs::FilesystemCore;
use doublecrypt_core::model::InodeKind;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

fn unhex(s: &str) -> Vec<u8> {
    (0..s.len() / 2).map(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).expect("hexadecimal")).collect()
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|c| format!("{c:02x}")).collect()
}

/// A line of everything beneath a directory: kind, size, inode, path, contents; separated by `;`.
fn tree(fs: &FilesystemCore, dir: &str, out: &mut Vec<String>) -> Result<(), FsError> {
    for e in fs.list_directory(dir)? {
        let path = if dir.is_empty() { e.name.clone() } else { format!("{dir}/{}", e.name) };
        let stat = fs.stat(&path)?;
        assert_eq!((stat.size, stat.inode_id), (e.size, e.inode_id));
        if e.kind == InodeKind::Directory {
            out.push(format!("d {} {} {path} -", e.size, e.inode_id));
            tree(fs, &path, out)?;
        } else {
            let data = fs.read_file(&path, 0, e.size as usize + 1)?;
            out.push(format!("f {} {} {path} {}", e.size, e.inode_id, hex(&data)));
        }
    }
    Ok(())
}

fn run(fs: &mut FilesystemCore, words: &[&str]) -> Result<String, FsError> {
    let done = |r: Result<(), FsError>| r.map(|_| String::new());
    let number = |s: &str| s.parse::<u64>().expect("a number");
    match words {
        ["init"] => done(fs.init_filesystem()),
        ["open"] => done(fs.open()),
        ["create", p] => done(fs.create_file(p)),
        ["mkdir", p] => done(fs.create_directory(p)),
        ["remove", p] => done(fs.remove_file(p)),
        ["rename", a, b] => done(fs.rename(a, b)),
        ["write", p, off, data] => done(fs.write_file(p, number(off), &unhex(data))),
        ["read", p, off, len] => fs.read_file(p, number(off), number(len) as usize).map(|b| hex(&b)),
        ["flush"] => done(fs.flush()),
        ["sync"] => done(fs.sync()),
        ["scrub"] => done(fs.scrub_free_blocks()),
        ["tree"] => {
            let mut out = Vec::new();
            tree(fs, "", &mut out)?;
            Ok(out.join(";"))
        }
        _ => panic!("unknown command {words:?}"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, block, key] = args.as_slice() else { panic!("usage: judge PATH BLOCK_BYTES KEY_HEX") };
    let store = DiskBlockStore::open(path, block.parse().expect("a block size"), 0).expect("the image opens");
    let engine = ChaChaEngine::new(&unhex(key)).expect("a key");
    let mut fs = FilesystemCore::new(Arc::new(store), Arc::new(engine));
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split(' ').collect();
        match run(&mut fs, &words) {
            Ok(s) if s.is_empty() => writeln!(out, "ok"),
            Ok(s) => writeln!(out, "ok {s}"),
            Err(e) => writeln!(out, "err {} {e}", FsErrorCode::from(&e) as i32),
        }
        .expect("standard output");
        out.flush().expect("standard output");
    }
}
