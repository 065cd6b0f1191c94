/*
 * create_image IMAGE: creates an image file of format v1, writes files into it and lists them.
 *
 *   make libdoublecrypt
 *   gcc -Ibuild/libdoublecrypt examples/create_image/c/create_image.c build/libdoublecrypt/libdoublecrypt.a -o create_image
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "doublecrypt.h"

static FsHandle *fs;

static void check(const char *what, int32_t code)
{
	if (code == FS_OK)
		return;
	fprintf(stderr, "create_image: %s: code %d\n", what, code);
	fs_destroy(fs);
	exit(1);
}

static void add(const char *path, const void *data, size_t size)
{
	check(path, fs_create_file(fs, path));
	check(path, fs_write_file(fs, path, 0, data, size));
}

static void list(const char *dir)
{
	int32_t code = FS_OK;
	char *json = fs_list_dir(fs, dir, &code);

	check(dir, code);
	printf("/%s: %s\n", dir, json);
	fs_free_string(json);
}

int main(int argc, char **argv)
{
	static uint8_t pattern[200000];
	static const char hello[] = "An encrypted image.\n", secret[] = "Nobody else reads this.\n";
	uint8_t key[32];
	FILE *random = fopen("/dev/urandom", "rb");

	if (argc != 2 || !random || fread(key, 1, sizeof key, random) != sizeof key) {
		fprintf(stderr, "usage: create_image IMAGE\n");
		return 2;
	}
	fclose(random);
	fs = fs_create_disk(argv[1], 64, 0, 1, key, sizeof key);
	if (!fs) {
		fprintf(stderr, "create_image: cannot create %s\n", argv[1]);
		return 1;
	}
	check("format", fs_init_filesystem(fs));
	check("notes", fs_create_dir(fs, "notes"));
	for (size_t i = 0; i < sizeof pattern; i++)
		pattern[i] = (uint8_t)i;
	add("hello.txt", hello, strlen(hello));
	add("pattern.bin", pattern, sizeof pattern); /* spans several blocks */
	add("notes/secret.txt", secret, strlen(secret));
	check("sync", fs_sync(fs));
	list("");
	list("notes");
	fs_destroy(fs);
	return 0;
}
