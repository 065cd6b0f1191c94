/* Tests every function of selfenc.h. The argument is a directory that it may write to. */
#define _GNU_SOURCE /* memmem */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "selfenc.h"

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); exit(1); } } while (0)

/* OK is a call that must succeed. REFUSED is one that must fail with a code and a message. */
#define OK(x) do { char *e_ = NULL, **error = &e_; int got_ = (x); if (got_) { fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, e_ ? e_ : "?"); exit(1); } CHECK(!e_); } while (0)
#define REFUSED(x, code, why) do { char *e_ = NULL, **error = &e_; int got_ = (x); CHECK(e_); \
	if (got_ != (code) || !strstr(e_, why)) { fprintf(stderr, "%s:%d: %s: %d %s\n", __FILE__, __LINE__, #x, got_, e_); exit(1); } \
	selfenc_free(e_); error = NULL; CHECK((x) == (code)); } while (0)

#define MAX_CHUNKS 64

struct store {
	pthread_t thread; /* the thread that makes the calls */
	int count, fail, busy, failed;
	uint64_t indices;
	struct { uint8_t name[32], *data; size_t size; } chunks[MAX_CHUNKS];
};

/* Checks that callbacks run on the thread of the caller, one at a time, and none after a failure. */
static void enter(struct store *s)
{
	CHECK(pthread_equal(pthread_self(), s->thread));
	CHECK(s->busy++ == 0);
	CHECK(!s->failed);
}

static int put(void *context, const uint8_t name[32], const uint8_t *data, size_t size)
{
	struct store *s = context;
	int stored = 1;

	enter(s);
	if (s->fail) {
		stored = s->fail == 1 ? 0 : s->fail;
		s->failed++;
	} else {
		CHECK(s->count < MAX_CHUNKS);
		memcpy(s->chunks[s->count].name, name, 32);
		s->chunks[s->count].data = malloc(size);
		memcpy(s->chunks[s->count].data, data, size);
		s->chunks[s->count++].size = size;
	}
	s->busy--;
	return stored;
}

static int64_t get(void *context, const uint8_t name[32], uint64_t index, uint8_t *data, size_t limit)
{
	struct store *s = context;
	int64_t n = -1;

	enter(s);
	s->indices |= UINT64_C(1) << index;
	for (int i = 0; i < s->count; i++) {
		if (memcmp(s->chunks[i].name, name, 32))
			continue;
		n = (int64_t)s->chunks[i].size;
		if (s->chunks[i].size > limit)
			n = -3;
		else
			memcpy(data, s->chunks[i].data, s->chunks[i].size);
	}
	if (s->fail) {
		n = s->fail == 1 ? 0 : s->fail;
		s->failed++;
	}
	s->busy--;
	return n;
}

static void empty(struct store *s)
{
	while (s->count)
		free(s->chunks[--s->count].data);
}

static uint8_t *pattern(size_t n)
{
	uint8_t *b = malloc(n);
	uint32_t x = 1;

	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		b[i] = (uint8_t)(x >> 24);
	}
	return b;
}

static void in_memory(int encoding, size_t n)
{
	uint8_t *plain = pattern(n), *map = NULL, *chunks = NULL, *back = NULL, *json = NULL, name[32], other[32];
	size_t map_size = 0, chunks_size = 0, size = 0, json_size = 0;

	OK(selfenc_encrypt(encoding, 0, NULL, plain, n, &map, &map_size, &chunks, &chunks_size, error));
	OK(selfenc_decrypt(encoding, map, map_size, chunks, chunks_size, &back, &size, error));
	CHECK(size == n && memcmp(back, plain, n) == 0);
	selfenc_free(back);
	OK(selfenc_map_convert(map, map_size, "json", &json, &json_size, error));
	CHECK(json_size && json[0] == '{');
	OK(selfenc_decrypt(encoding, json, json_size, chunks, chunks_size, &back, &size, error));
	CHECK(size == n && memcmp(back, plain, n) == 0);
	selfenc_free(back);
	selfenc_free(json);

	OK(selfenc_name(encoding, chunks + 8, 10, name, error));
	OK(selfenc_name(67 - encoding, chunks + 8, 10, other, error)); /* the other encoding */
	CHECK(memcmp(name, other, 32));
	CHECK(n < 100 || memmem(map, map_size, other, 32) == NULL);

	/* Damaged, truncated, of another encoding, without a map. */
	back = (uint8_t *)1;
	chunks[10] ^= 1;
	REFUSED(selfenc_decrypt(encoding, map, map_size, chunks, chunks_size, &back, &size, error), SELFENC_NO_SUCH_CHUNK, "no such chunk");
	CHECK(!back && !size); /* nothing that the caller must free */
	chunks[10] ^= 1;
	REFUSED(selfenc_decrypt(encoding, map, map_size, chunks, chunks_size - 1, &back, &size, error), SELFENC_GENERIC, "malformed list");
	REFUSED(selfenc_decrypt(encoding, map, map_size, NULL, 0, &back, &size, error), SELFENC_NO_SUCH_CHUNK, "no such chunk");
	REFUSED(selfenc_decrypt(67 - encoding, map, map_size, chunks, chunks_size, &back, &size, error), SELFENC_NO_SUCH_CHUNK, "no such chunk");
	REFUSED(selfenc_decrypt(encoding, map, map_size - 1, chunks, chunks_size, &back, &size, error), SELFENC_SERIALISATION, "map");
	REFUSED(selfenc_decrypt(encoding, NULL, 0, chunks, chunks_size, &back, &size, error), SELFENC_SERIALISATION, "map");

	selfenc_free(map);
	selfenc_free(chunks);
	free(plain);
}

/* Decrypts into memory from a store, follows a map to its root, and shrinks the root again. */
static void maps(int encoding, struct store *s, const uint8_t *map, size_t map_size, const uint8_t *plain, size_t n)
{
	uint8_t *back = NULL, *root = NULL, *shrunk = NULL;
	size_t size = 0, root_size = 0, shrunk_size = 0;

	OK(selfenc_decrypt_store(encoding, map, map_size, get, s, &back, &size, error));
	CHECK(size == n && memcmp(back, plain, n) == 0);
	selfenc_free(back);
	OK(selfenc_root_map(encoding, map, map_size, get, s, &root, &root_size, error));
	CHECK(root_size == 10 + 80 * (root_size / 80)); /* v1, no child */
	OK(selfenc_shrink(encoding, NULL, root, root_size, put, s, &shrunk, &shrunk_size, error));
	CHECK(shrunk_size == map_size && memcmp(shrunk, map, map_size) == 0);
	selfenc_free(shrunk);
	selfenc_free(root);
	s->fail = 1;
	REFUSED((s->failed = 0, selfenc_decrypt_store(encoding, map, map_size, get, s, &back, &size, error)), SELFENC_CALLBACK, "cannot read");
	CHECK(!back && !size);
	s->fail = s->failed = 0;
	REFUSED(selfenc_decrypt_store(encoding, map, map_size, NULL, s, &back, &size, error), SELFENC_GENERIC, "the callback");
	REFUSED(selfenc_root_map(encoding, map, map_size, NULL, s, &back, &size, error), SELFENC_GENERIC, "the callback");
	REFUSED(selfenc_shrink(encoding, NULL, map, map_size, NULL, s, &back, &size, error), SELFENC_GENERIC, "the callback");
	REFUSED(selfenc_root_map(encoding, map, map_size - 1, get, s, &back, &size, error), SELFENC_SERIALISATION, "map");
	REFUSED(selfenc_shrink(encoding, NULL, map, map_size, put, s, NULL, &size, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_root_map(encoding, map, map_size, get, s, &back, NULL, error), SELFENC_GENERIC, "result pointer");
}

static void through_files(int encoding, const char *dir, size_t n)
{
	char source[4096], back[4096];
	uint8_t *plain = pattern(n), *map = NULL, *got = malloc(n + 1);
	size_t map_size = 0;
	struct store s = {.thread = pthread_self()};
	FILE *f;

	snprintf(source, sizeof source, "%s/source", dir);
	snprintf(back, sizeof back, "%s/back", dir);
	f = fopen(source, "wb");
	CHECK(f && fwrite(plain, 1, n, f) == n && fclose(f) == 0);
	OK(selfenc_encrypt_file(encoding, 0, NULL, source, put, &s, &map, &map_size, error));
	CHECK(s.count >= 3);
	OK(selfenc_decrypt_file(encoding, map, map_size, back, get, &s, error));
	CHECK(s.indices & 4);
	f = fopen(back, "rb");
	CHECK(f && fread(got, 1, n + 1, f) == n && fclose(f) == 0);
	CHECK(memcmp(got, plain, n) == 0 && remove(back) == 0);

	/* A store that fails, lacks a chunk, or returns a wrong one. No file remains. */
	for (int code = -4; code <= 1; code++) {
		if ((s.fail = code) == 0)
			continue;
		REFUSED((s.failed = 0, selfenc_decrypt_file(encoding, map, map_size, back, get, &s, error)),
			code == -1 ? SELFENC_NO_SUCH_CHUNK : code == -3 ? SELFENC_CHUNK_TOO_LARGE : SELFENC_CALLBACK,
			code == -1 ? "no such chunk" : code == -3 ? "too large" : "cannot read");
	}
	s.fail = s.failed = 0;
	REFUSED(selfenc_decrypt_file(encoding, map, map_size, "/dev/null", get, &s, error), SELFENC_OS - EEXIST, "not a regular file");
	maps(encoding, &s, map, map_size, plain, n);
	s.chunks[0].data[0] ^= 1;
	REFUSED(selfenc_decrypt_file(encoding, map, map_size, back, get, &s, error), SELFENC_DECRYPTION, "corrupt");
	CHECK(fopen(back, "rb") == NULL);
	selfenc_free(map);
	map = (uint8_t *)1;
	for (s.fail = -1; s.fail <= 2; s.fail++) /* like a function that threw an exception */
		if (s.fail)
			REFUSED((s.failed = 0, selfenc_encrypt_file(encoding, 0, NULL, source, put, &s, &map, &map_size, error)),
				SELFENC_CALLBACK, "cannot store");
	CHECK(!map && !map_size);
	s.fail = s.failed = 0;

	REFUSED(selfenc_encrypt_file(encoding, 0, NULL, NULL, put, &s, &map, &map_size, error), SELFENC_GENERIC, "the path");
	REFUSED(selfenc_encrypt_file(encoding, 0, NULL, source, NULL, &s, &map, &map_size, error), SELFENC_GENERIC, "the callback");
	REFUSED(selfenc_encrypt_file(encoding, 0, NULL, source, put, &s, NULL, &map_size, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_encrypt_file(encoding, 0, NULL, source, put, &s, &map, NULL, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_encrypt_file(encoding, 0, NULL, "/nowhere/at/all", put, &s, &map, &map_size, error), SELFENC_OS - ENOENT, "no such file");
	REFUSED(selfenc_encrypt_file(encoding, 0, NULL, dir, put, &s, &map, &map_size, error), SELFENC_OS - EISDIR, "directory");
	REFUSED(selfenc_encrypt_file(2, 0, NULL, source, put, &s, &map, &map_size, error), SELFENC_ENCODING, "unknown encoding");
	empty(&s);
	free(plain);
	free(got);
}

static void nulls(void)
{
	uint8_t b[100] = {0}, *out = NULL, *out2 = NULL, name[32];
	size_t n = 0, n2 = 0;
	struct store s = {.thread = pthread_self()};
	static const int none[] = {0, 1, 2, 30, 35, 37, -1, 36 + 256, 31 - 256, 36 + 65536};

	selfenc_free(NULL);
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
		REFUSED(selfenc_encrypt(none[i], 0, NULL, b, 100, &out, &n, &out2, &n2, error), SELFENC_ENCODING, "unknown encoding");
		REFUSED(selfenc_decrypt(none[i], b, 100, b, 100, &out, &n, error), SELFENC_ENCODING, "unknown encoding");
		REFUSED(selfenc_decrypt_file(none[i], b, 100, "/nowhere", get, &s, error), SELFENC_ENCODING, "unknown encoding");
		REFUSED(selfenc_name(none[i], b, 100, name, error), SELFENC_ENCODING, "unknown encoding");
	}
	REFUSED(selfenc_encrypt(36, 0, NULL, NULL, 100, &out, &n, &out2, &n2, error), SELFENC_GENERIC, "data is NULL");
	REFUSED(selfenc_encrypt(36, 0, NULL, NULL, 0, &out, &n, &out2, &n2, error), SELFENC_TOO_SMALL, "at least 3");
	REFUSED(selfenc_encrypt(36, 0, NULL, b, 2, &out, &n, &out2, &n2, error), SELFENC_TOO_SMALL, "at least 3");
	REFUSED(selfenc_encrypt(36, SIZE_MAX, NULL, b, 100, &out, &n, &out2, &n2, error), SELFENC_INVALID_CHUNK_SIZE, "invalid chunk size");
	REFUSED(selfenc_encrypt(31, 64 << 20, NULL, b, 100, &out, &n, &out2, &n2, error), SELFENC_INVALID_CHUNK_SIZE, "invalid chunk size");
	REFUSED(selfenc_encrypt(36, 0, "v0c", b, 100, &out, &n, &out2, &n2, error), SELFENC_GENERIC, "form");
	REFUSED(selfenc_encrypt(31, 0, "json", b, 100, &out, &n, &out2, &n2, error), SELFENC_GENERIC, "form");
	REFUSED(selfenc_encrypt(31, 0, "", b, 100, &out, &n, &out2, &n2, error), SELFENC_GENERIC, "form");
	REFUSED(selfenc_encrypt(36, 0, NULL, b, SIZE_MAX, &out, &n, &out2, &n2, error), SELFENC_TOO_LARGE, "2 GiB");
	REFUSED(selfenc_encrypt(36, 0, NULL, b, 100, NULL, &n, &out2, &n2, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_encrypt(36, 0, NULL, b, 100, &out, NULL, &out2, &n2, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_encrypt(36, 0, NULL, b, 100, &out, &n, NULL, &n2, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_encrypt(36, 0, NULL, b, 100, &out, &n, &out2, NULL, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_decrypt(36, b, 100, b, 100, NULL, &n, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_decrypt(36, b, SIZE_MAX, b, 100, &out, &n, error), SELFENC_TOO_LARGE, "2 GiB");
	REFUSED(selfenc_decrypt_file(36, b, 100, NULL, get, &s, error), SELFENC_GENERIC, "the path");
	REFUSED(selfenc_decrypt_file(36, b, 100, "/nowhere", NULL, &s, error), SELFENC_GENERIC, "the callback");
	REFUSED(selfenc_map_convert(NULL, 100, "v1", &out, &n, error), SELFENC_GENERIC, "data is NULL");
	REFUSED(selfenc_map_convert(b, 100, NULL, &out, &n, error), SELFENC_GENERIC, "form is NULL");
	REFUSED(selfenc_map_convert(b, 100, "v1", NULL, &n, error), SELFENC_GENERIC, "result pointer");
	REFUSED(selfenc_map_convert(b, 100, "v1", &out, &n, error), SELFENC_SERIALISATION, "map");
	REFUSED(selfenc_name(36, NULL, 10, name, error), SELFENC_GENERIC, "data is NULL");
	REFUSED(selfenc_name(36, b, 10, NULL, error), SELFENC_GENERIC, "result pointer");
	OK(selfenc_name(36, NULL, 0, name, error));
	OK(selfenc_name(36, (const uint8_t *)"abc", 3, name, error));
	CHECK(memcmp(name, "\x64\x37\xb3\xac\x38\x46\x51\x33", 8) == 0); /* BLAKE3 */
}

/* A map that repeats one chunk would fill any memory. It must be refused immediately. */
static void bomb(void)
{
	size_t map_size = 0, chunks_size = 0, size = 0;
	const uint64_t count = 1 << 20;
	uint8_t *plain = calloc(1, 3 << 20), *map = NULL, *chunks = NULL, *back = NULL, *big;

	OK(selfenc_encrypt(31, 0, NULL, plain, 3 << 20, &map, &map_size, &chunks, &chunks_size, error));
	big = malloc(map_size + (count - 3) * 80);
	big[0] = 1;
	memcpy(big + 1, &count, 8);
	for (uint64_t i = 0; i < count; i++) {
		memcpy(big + 9 + 80 * i, map + 9, 80);
		memcpy(big + 9 + 80 * i, &i, 8);
	}
	big[9 + 80 * count] = 0;
	REFUSED(selfenc_decrypt(31, big, 10 + 80 * count, chunks, chunks_size, &back, &size, error), SELFENC_TOO_LARGE, "too large");
	selfenc_free(map);
	selfenc_free(chunks);
	free(big);
	free(plain);
}

static void *thread(void *dir)
{
	for (int i = 0; i < 5; i++)
		in_memory(i & 1 ? 31 : 36, 1000 + 5000 * (size_t)i);
	return dir;
}

/* Checks that all memory is freed. */
static void leaks(void)
{
	uint8_t *plain = pattern(2000), *map = NULL, *chunks = NULL, *back = NULL;
	size_t map_size, chunks_size, size, before = 0;

	for (int i = 0; i < 60; i++) {
		OK(selfenc_encrypt(36, 0, NULL, plain, 2000, &map, &map_size, &chunks, &chunks_size, error));
		OK(selfenc_decrypt(36, map, map_size, chunks, chunks_size, &back, &size, error));
		selfenc_free(back);
		REFUSED(selfenc_decrypt(36, map, map_size - 1, chunks, chunks_size, &back, &size, error), SELFENC_SERIALISATION, "map");
		CHECK(!back);
		selfenc_free(map);
		selfenc_free(chunks);
		if (i == 20)
			before = mallinfo2().uordblks;
	}
	CHECK(mallinfo2().uordblks < before + 10000);
	free(plain);
}

int main(int argc, char **argv)
{
	pthread_t threads[4];
	int quick = argc == 3; /* under valgrind */

	CHECK(argc >= 2);
	nulls();
	in_memory(31, 3);
	in_memory(36, 3);
	in_memory(31, 100000);
	in_memory(36, 100000);
	through_files(36, argv[1], quick ? 100000 : 3 * 4190208 + 1); /* four chunks and one level of the map */
	through_files(31, argv[1], quick ? 50000 : (3 << 20) + 1);
	for (size_t i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, thread, NULL) == 0);
	for (size_t i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	leaks();
	if (!quick)
		bomb();
	puts("ok");
	return 0;
}
