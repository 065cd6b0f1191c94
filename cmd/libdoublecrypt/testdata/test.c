/* Tests every function of doublecrypt.h. The argument is the name of the image to create. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "doublecrypt.h"

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); exit(1); } } while (0)
#define WANT(x, code) do { int32_t got_ = (x); if (got_ != (code)) { fprintf(stderr, "%s:%d: %s is %d, want %d\n", __FILE__, __LINE__, #x, got_, code); exit(1); } } while (0)

static const uint8_t key[32] = {1, 2, 3};

/* Checks that all functions refuse an invalid handle. */
static void refused(FsHandle *h)
{
	uint8_t b[8];
	size_t n = 99;
	int32_t err = 0;

	WANT(fs_init_filesystem(h), FS_INVALID_ARGUMENT);
	WANT(fs_open(h), FS_INVALID_ARGUMENT);
	WANT(fs_create_file(h, "f"), FS_INVALID_ARGUMENT);
	WANT(fs_create_dir(h, "f"), FS_INVALID_ARGUMENT);
	WANT(fs_remove_file(h, "f"), FS_INVALID_ARGUMENT);
	WANT(fs_rename(h, "f", "g"), FS_INVALID_ARGUMENT);
	WANT(fs_write_file(h, "f", 0, b, 1), FS_INVALID_ARGUMENT);
	WANT(fs_read_file(h, "f", 0, 1, b, &n), FS_INVALID_ARGUMENT);
	CHECK(fs_list_root(h, &err) == NULL && err == FS_INVALID_ARGUMENT);
	CHECK(fs_list_root(h, NULL) == NULL);
	CHECK(fs_list_dir(h, "d", &err) == NULL && err == FS_INVALID_ARGUMENT);
	WANT(fs_stat(h, "f", NULL, NULL, NULL), FS_INVALID_ARGUMENT);
	WANT(fs_flush(h), FS_INVALID_ARGUMENT);
	WANT(fs_sync(h), FS_INVALID_ARGUMENT);
	WANT(fs_scrub_free_blocks(h), FS_INVALID_ARGUMENT);
	fs_destroy(h);
}

static void nulls(FsHandle *h)
{
	uint8_t b[32] = {0};
	size_t n;
	int32_t err = 0;

	WANT(fs_create_file(h, NULL), FS_INVALID_ARGUMENT);
	WANT(fs_create_file(h, "\xff\xfe"), FS_INVALID_ARGUMENT);
	WANT(fs_create_dir(h, NULL), FS_INVALID_ARGUMENT);
	WANT(fs_remove_file(h, NULL), FS_INVALID_ARGUMENT);
	WANT(fs_rename(h, NULL, "x"), FS_INVALID_ARGUMENT);
	WANT(fs_rename(h, "f", NULL), FS_INVALID_ARGUMENT);
	WANT(fs_write_file(h, "f", 0, NULL, 1), FS_INVALID_ARGUMENT);
	WANT(fs_write_file(h, "f", 0, b, SIZE_MAX), FS_INVALID_ARGUMENT);
	WANT(fs_write_file(h, "f", UINT64_MAX, b, 8), FS_NO_SPACE);
	WANT(fs_write_file(h, "f", 0, NULL, 0), FS_OK);
	WANT(fs_read_file(h, "f", 0, 1, NULL, &n), FS_INVALID_ARGUMENT);
	WANT(fs_read_file(h, "f", 0, 1, b, NULL), FS_INVALID_ARGUMENT);
	CHECK(fs_list_dir(h, NULL, &err) == NULL && err == FS_INVALID_ARGUMENT);
	WANT(fs_stat(h, NULL, NULL, NULL, NULL), FS_INVALID_ARGUMENT);
	WANT(fs_blake3(NULL, 0, b), FS_INVALID_ARGUMENT);
	WANT(fs_blake3(b, 1, NULL), FS_INVALID_ARGUMENT);
}

static void use(FsHandle *h)
{
	uint8_t b[300000], back[300000];
	size_t n = 0;
	uint64_t size = 0, inode = 0;
	int32_t kind = -1, err = -1;
	char *list;

	for (size_t i = 0; i < sizeof b; i++)
		b[i] = (uint8_t)(i * 31);
	WANT(fs_create_file(h, "f"), FS_NOT_INITIALIZED);
	WANT(fs_init_filesystem(h), FS_OK);
	WANT(fs_create_file(h, "f"), FS_OK);
	nulls(h);
	WANT(fs_create_file(h, "f"), FS_ALREADY_EXISTS);
	WANT(fs_create_dir(h, "d"), FS_OK);
	WANT(fs_create_dir(h, "f/x"), FS_NOT_A_DIRECTORY);
	WANT(fs_write_file(h, "d", 0, b, 1), FS_NOT_A_FILE);
	WANT(fs_write_file(h, "f", 1000, b, sizeof b), FS_OK);
	WANT(fs_read_file(h, "f", 1000, sizeof back, back, &n), FS_OK);
	CHECK(n == sizeof b && memcmp(b, back, n) == 0);
	WANT(fs_flush(h), FS_OK);
	WANT(fs_rename(h, "f", "d/g"), FS_OK);
	WANT(fs_remove_file(h, "d"), FS_DIRECTORY_NOT_EMPTY);
	WANT(fs_remove_file(h, "f"), FS_NOT_FOUND);
	WANT(fs_stat(h, "d/g", &size, &kind, &inode), FS_OK);
	CHECK(size == 1000 + sizeof b && kind == 0 && inode == 2);
	WANT(fs_stat(h, "d", NULL, &kind, NULL), FS_OK);
	CHECK(kind == 1);
	list = fs_list_root(h, &err);
	CHECK(list && err == FS_OK && strcmp(list, "[{\"name\":\"d\",\"kind\":\"Directory\",\"size\":0,\"inode_id\":3}]") == 0);
	fs_free_string(list);
	list = fs_list_dir(h, "/d/", NULL);
	CHECK(list && strstr(list, "\"g\"") && strstr(list, "\"File\""));
	fs_free_string(list);
	fs_free_string(NULL);
	WANT(fs_sync(h), FS_OK);
	WANT(fs_scrub_free_blocks(h), FS_OK);
	WANT(fs_open(h), FS_OK);
	WANT(fs_read_file(h, "d/g", 1000, sizeof back, back, &n), FS_OK);
	CHECK(n == sizeof b && memcmp(b, back, n) == 0);
	WANT(fs_blake3((const uint8_t *)"abc", 3, back), FS_OK);
	CHECK(memcmp(back, "\x64\x37\xb3\xac\x38\x46\x51\x33", 8) == 0);
}

/* Checks that all memory is freed. */
static void leaks(void)
{
	FsHandle *h = fs_create(100, key, sizeof key);
	size_t before = 0;

	CHECK(h);
	WANT(fs_init_filesystem(h), FS_OK);
	WANT(fs_create_file(h, "some-file-with-a-name"), FS_OK);
	for (int i = 0; i < 400; i++) {
		char *list = fs_list_root(h, NULL);

		CHECK(list);
		fs_free_string(list);
		if (i == 100)
			before = mallinfo2().uordblks;
	}
	CHECK(mallinfo2().uordblks < before + 10000);
	fs_destroy(h);
}

int main(int argc, char **argv)
{
	FsHandle *h, *old;
	char text[4];
	size_t n = 0;

	CHECK(argc == 2);
	refused(NULL);
	refused((FsHandle *)text);
	CHECK(fs_create(100, NULL, 32) == NULL);
	CHECK(fs_create(100, key, 0) == NULL);
	CHECK(fs_create(0, key, 32) == NULL);
	CHECK(fs_create(UINT64_MAX, key, 32) == NULL);
	CHECK(fs_create_disk(NULL, 100, 4096, 1, key, 32) == NULL);
	CHECK(fs_create_disk("/nowhere/at/all", 100, 4096, 1, key, 32) == NULL);
	CHECK(fs_create_disk("/nowhere/at/all", 0, 0, 0, key, 32) == NULL);
	CHECK(fs_create_device(NULL, 100, 4096, 0, key, 32) == NULL);
	CHECK(fs_create_network("a:1", "a", NULL, 0, NULL, 0, key, 32) == NULL);

	h = fs_create(200, key, 32);
	CHECK(h);
	use(h);
	old = h;
	fs_destroy(h);
	refused(old); /* also destroys it again */

	h = fs_create_disk(argv[1], 500, 4096, 1, key, 32);
	CHECK(h && h != old);
	CHECK(fs_create_disk(argv[1], 500, 4096, 1, key, 32) == NULL); /* exists */
	CHECK(fs_create_disk(argv[1], 0, 4096, 0, key, 32) == NULL); /* is in use */
	use(h);
	WANT(fs_write_file(h, "d/g", 0, (const uint8_t *)"last", 4), FS_OK);
	fs_destroy(h); /* loses nothing */

	h = fs_create_device(argv[1], 0, 512, 0, key, 32);
	CHECK(h);
	WANT(fs_open(h), FS_INVALID_ARGUMENT); /* another block size */
	fs_destroy(h);
	h = fs_create_device(argv[1], 0, 4096, 0, (const uint8_t *)"wrong", 5);
	CHECK(h);
	WANT(fs_open(h), FS_CRYPTO_ERROR);
	fs_destroy(h);
	h = fs_create_device(argv[1], 0, 4096, 0, key, 32);
	CHECK(h);
	WANT(fs_open(h), FS_OK);
	WANT(fs_read_file(h, "d/g", 0, 4, (uint8_t *)text, &n), FS_OK);
	CHECK(n == 4 && memcmp(text, "last", 4) == 0);
	fs_destroy(h);
	fs_destroy(h);
	leaks();
	puts("ok");
	return 0;
}
