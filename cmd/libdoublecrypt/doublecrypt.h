/*
 * Volumes of format v1 (doublecrypt): the functions of doublecrypt-core 0.1.18.
 *
 * Functions that return int32_t return 0 or one of the negative codes below.
 * Paths are UTF-8, separated by "/", ended by NUL. A handle comes from a function
 * fs_create…, and is valid until fs_destroy; anything else in its place, NULL
 * included, gives FS_INVALID_ARGUMENT. Calls may be concurrent.
 *
 * Other than there: fs_flush and fs_sync both write to the device with the barriers
 * that a power cut asks for; fs_destroy loses nothing; what does not fit is refused at
 * once, not at the next flush; fs_create_network is not supported and returns NULL.
 */
#ifndef DOUBLECRYPT_H
#define DOUBLECRYPT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
	FS_OK = 0,
	FS_NOT_FOUND = -1,
	FS_ALREADY_EXISTS = -2,
	FS_NO_SPACE = -3,
	FS_INVALID_ARGUMENT = -4,
	FS_NOT_INITIALIZED = -5,
	FS_IO_ERROR = -6,
	FS_CRYPTO_ERROR = -7,
	FS_INTERNAL_ERROR = -8,
	FS_BUFFER_TOO_SMALL = -9,
	FS_NOT_A_FILE = -10,
	FS_NOT_A_DIRECTORY = -11,
	FS_DIRECTORY_NOT_EMPTY = -12,
	FS_NAME_TOO_LONG = -13,
};

typedef struct FsHandle FsHandle;

/* In memory, with blocks of 64 KiB. */
FsHandle *fs_create(uint64_t total_blocks, const uint8_t *master_key, size_t master_key_len);

/* An image file. block_size 0 is 65536. create_new makes it, filled with random bytes; it must not
 * exist. Otherwise total_blocks 0 is as many as the file holds. The file is locked until fs_destroy. */
FsHandle *fs_create_disk(const char *path, uint64_t total_blocks, uint32_t block_size, int32_t create_new, const uint8_t *master_key, size_t master_key_len);

/* A block device, or a file in its place. initialize fills it with random bytes. */
FsHandle *fs_create_device(const char *path, uint64_t total_blocks, uint32_t block_size, int32_t initialize, const uint8_t *master_key, size_t master_key_len);

/* Not supported: NULL. */
FsHandle *fs_create_network(const char *addr, const char *server_name, const char *ca_cert_path, uint32_t cache_blocks,
	const uint8_t *auth_token, size_t auth_token_len, const uint8_t *master_key, size_t master_key_len);

/* Writes what is buffered and ends the handle. NULL, and a handle that has ended, are ignored. */
void fs_destroy(FsHandle *handle);

/* Makes an empty file system, or opens the one that is there. */
int32_t fs_init_filesystem(FsHandle *handle);
int32_t fs_open(FsHandle *handle);

int32_t fs_create_file(FsHandle *handle, const char *path);
int32_t fs_create_dir(FsHandle *handle, const char *path);
int32_t fs_remove_file(FsHandle *handle, const char *path); /* or an empty directory */
int32_t fs_rename(FsHandle *handle, const char *old_path, const char *new_path); /* also to another directory; never replaces */

/* data may be NULL if len is 0. */
int32_t fs_write_file(FsHandle *handle, const char *path, uint64_t offset, const uint8_t *data, size_t len);

/* Reads at most len bytes to out_buf; *out_len is how many. */
int32_t fs_read_file(FsHandle *handle, const char *path, uint64_t offset, size_t len, uint8_t *out_buf, size_t *out_len);

/* A JSON array of {"name","kind":"File"|"Directory","size","inode_id"}, for fs_free_string; NULL at an
 * error, which is in *out_error unless that is NULL. */
char *fs_list_root(FsHandle *handle, int32_t *out_error);
char *fs_list_dir(FsHandle *handle, const char *path, int32_t *out_error);

/* kind: 0 file, 1 directory. Any of the results may be NULL. */
int32_t fs_stat(FsHandle *handle, const char *path, uint64_t *size, int32_t *kind, uint64_t *inode_id);

int32_t fs_flush(FsHandle *handle);
int32_t fs_sync(FsHandle *handle);
int32_t fs_scrub_free_blocks(FsHandle *handle);

/* BLAKE3 of data. */
int32_t fs_blake3(const uint8_t *data, size_t len, uint8_t out[32]);

/* Frees what the list functions returned. */
void fs_free_string(char *s);

#ifdef __cplusplus
}
#endif

#endif
