"""Threads, signals, forks and the end of the interpreter during a call: the call ends, and nothing crashes."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import self_encryption as se


def run(program, *arguments):
    """Runs a program in a separate process, and returns its status and output."""
    r = subprocess.run([sys.executable, "-W", "ignore", "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/", timeout=120)
    return r.returncode, r.stdout


class Process(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name, "file")
        self.file.write_bytes(os.urandom(1 << 20))

    def test_threads(self):
        def work(i):
            store, back = se.MemoryStore(), self.file.with_name(f"back{i}")
            data_map = se.streaming_encrypt_from_file(self.file, store, (31, 36)[i % 2], 1 << 14)
            if i % 3 == 0:
                store.chunks.popitem()
            try:
                se.streaming_decrypt_from_storage(data_map, store, back)
            except se.NoSuchChunk:
                return i % 3 == 0
            return i % 3 != 0 and back.read_bytes() == self.file.read_bytes()

        with ThreadPoolExecutor(8) as pool:
            self.assertEqual(list(pool.map(work, range(24))), [True] * 24)

    def test_nothing_is_kept(self):
        """After a call, successful or not, nothing refers to its arguments."""

        class Store(se.MemoryStore):
            pass

        def fails(name, data):
            raise KeyError(keep)

        keep = Store()
        gone = weakref.ref(keep)
        data_map = se.streaming_encrypt_from_file(self.file, keep)
        self.assertEqual(len(se.decrypt(data_map, keep)), 1 << 20)
        with self.assertRaises(KeyError):
            se.streaming_encrypt_from_file(self.file, fails)
        del keep, fails
        gc.collect()
        self.assertIsNone(gone())

    def test_signals(self):
        """An exception of a signal ends the call, whenever it is raised."""

        class Alarm(Exception):
            pass

        def ring(*_):
            raise Alarm

        self.addCleanup(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, ring))
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)
        # First when a chunk is requested, so that the signal arrives in the store; then at any time, mostly outside of it.
        with self.assertRaises(Alarm):
            se.streaming_encrypt_from_file(self.file, lambda name, data: signal.raise_signal(signal.SIGALRM))
        self.file.write_bytes(os.urandom(16 << 20))
        for i in range(20):
            stored = {}
            with self.assertRaises(Alarm):
                signal.setitimer(signal.ITIMER_REAL, 0.0005 * (i + 1))
                se.streaming_encrypt_from_file(self.file, stored.__setitem__)

    def test_fork(self):
        """In a child forked after a call, calls fail and do not hang. In one forked before the first call, they work."""
        program = """
import os, sys
import self_encryption as se
def child():
    pid = os.fork()
    if pid == 0:
        try:
            se.encrypt(b"some data")
            os._exit(0)
        except RuntimeError as e:
            assert "spawn" in str(e)
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(child())
se.encrypt(b"some data")
print(child())
print(se.decrypt(*se.encrypt(b"some data")))
"""
        self.assertEqual(run(program), (0, "0\n7\nb'some data'\n"))

    def test_end_of_interpreter(self):
        """Threads may be in calls and in stores when the interpreter ends."""
        program = """
import sys, threading
import self_encryption as se
begun = threading.Semaphore(0)
def work(wait):
    def put(name, data):
        begun.release()
        if wait:
            threading.Event().wait()
    while True:
        se.streaming_encrypt_from_file(sys.argv[1], put, chunk_size=1 << 14)
for i in range(4):
    threading.Thread(target=work, args=(i % 2,), daemon=True).start()
for _ in range(int(sys.argv[2])):
    begun.acquire()
print("ends")
"""
        for count in 1, 5, 50, 150:
            self.assertEqual(run(program, str(self.file), str(count)), (0, "ends\n"))

    def test_missing_library(self):
        program = """
import self_encryption as se
try:
    se.encrypt(b"some data")
except ImportError as e:
    print("make libselfenc" in str(e))
"""
        r = subprocess.run([sys.executable, "-c", program], cwd="/", stdout=subprocess.PIPE, text=True, env={**os.environ, "LIBSELFENC": "/none.so"})
        self.assertEqual((r.returncode, r.stdout), (0, "True\n"))


if __name__ == "__main__":
    unittest.main()
