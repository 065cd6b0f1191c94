/*
 * Volumes of format v1 (doublecrypt): the functions of doublecrypt-core 0.1.18.
 *
 * Functions that return int32_t return 0 or one of the negative codes below.
 * Paths are UTF-8, separated by "/" and terminated by NUL. The functions fs_create...
 * return a handle, which is valid until fs_destroy. For any other value, including NULL,
 * functions return FS_INVALID_ARGUMENT. Calls may be concurrent.
 *
 * Differences from doublecrypt-core: fs_flush and fs_sync both write to the device, with
 * the barriers that protect against a power failure. fs_destroy loses no data. A write
 * that does not fit fails immediately, not at the next flush. fs_create_network is not
 * supported and returns NULL.
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

/* Creates a volume in memory, with blocks of 64 KiB. */
FsHandle *fs_create(uint64_t total_blocks, const uint8_t *master_key, size_t master_key_len);

/* Opens an image file. block_size 0 means 65536. With create_new, the file must not exist; it is
 * created and filled with random bytes. Without create_new, total_blocks 0 means as many blocks
 * as the file holds. The file is locked until fs_destroy. */
FsHandle *fs_create_disk(const char *path, uint64_t total_blocks, uint32_t block_size, int32_t create_new, const uint8_t *master_key, size_t master_key_len);

/* Opens a block device, or a file instead. With initialize, it is filled with random bytes. */
FsHandle *fs_create_device(const char *path, uint64_t total_blocks, uint32_t block_size, int32_t initialize, const uint8_t *master_key, size_t master_key_len);

/* Not supported. Returns NULL. */
FsHandle *fs_create_network(const char *addr, const char *server_name, const char *ca_cert_path, uint32_t cache_blocks,
	const uint8_t *auth_token, size_t auth_token_len, const uint8_t *master_key, size_t master_key_len);

/* Writes buffered data and destroys the handle. NULL and destroyed handles are ignored. */
void fs_destroy(FsHandle *handle);

/* fs_init_filesystem creates an empty file system. fs_open opens the existing one. */
int32_t fs_init_filesystem(FsHandle *handle);
int32_t fs_open(FsHandle *handle);

int32_t fs_create_file(FsHandle *handle, const char *path);
int32_t fs_create_dir(FsHandle *handle, const char *path);
int32_t fs_remove_file(FsHandle *handle, const char *path); /* or an empty directory */
int32_t fs_rename(FsHandle *handle, const char *old_path, const char *new_path); /* also to another directory; never replaces a file */

/* data may be NULL if len is 0. */
int32_t fs_write_file(FsHandle *handle, const char *path, uint64_t offset, const uint8_t *data, size_t len);

/* Reads at most len bytes into out_buf, and sets *out_len to their number. */
int32_t fs_read_file(FsHandle *handle, const char *path, uint64_t offset, size_t len, uint8_t *out_buf, size_t *out_len);

/* Return a JSON array of {"name","kind":"File"|"Directory","size","inode_id"}; free it with
 * fs_free_string. On error they return NULL and set *out_error, unless out_error is NULL. */
char *fs_list_root(FsHandle *handle, int32_t *out_error);
char *fs_list_dir(FsHandle *handle, const char *path, int32_t *out_error);

/* kind is 0 for a file and 1 for a directory. Any of the pointers to results may be NULL. */
int32_t fs_stat(FsHandle *handle, const char *path, uint64_t *size, int32_t *kind, uint64_t *inode_id);

int32_t fs_flush(FsHandle *handle);
int32_t fs_sync(FsHandle *handle);
int32_t fs_scrub_free_blocks(FsHandle *handle);

/* Computes the BLAKE3 hash of data. */
int32_t fs_blake3(const uint8_t *data, size_t len, uint8_t out[32]);

/* Frees a string that a list function returned. NULL is ignored. */
void fs_free_string(char *s);

#ifdef __cplusplus
}
#endif

#endif
