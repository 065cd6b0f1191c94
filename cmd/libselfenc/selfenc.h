/*
 * The C ABI of self-encryption, in the reference implementation's encodings.
 *
 * Functions return 0 on success. On error they return a negative code (enum selfenc_error, or
 * SELFENC_OS - errno), and set *error to a message; error may be NULL. Free messages and results
 * with selfenc_free. After an error, the results are NULL. The functions are thread-safe.
 *
 * encoding is 31 or 36. chunk_size is the maximum plaintext of a chunk in bytes; 0 means the
 * default of the encoding. map_form is the form of map levels that are themselves stored as chunks:
 * "v0c" (the default) or "v1" for encoding 31, "v1" for 36. Releases 0.32 to 0.34 read only "v1".
 * NULL means the default. Data in memory is limited to 2 GiB.
 *
 * The library's threads do not survive fork. A child process must not call its functions.
 */
#ifndef SELFENC_H
#define SELFENC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum selfenc_error {
	SELFENC_GENERIC = -1,            /* a required argument is NULL, unknown form of a map, ... */
	SELFENC_NO_SUCH_CHUNK = -2,      /* the store does not have a chunk of the map */
	SELFENC_CHUNK_TOO_SMALL = -3,    /* a stored chunk is shorter than the minimum */
	SELFENC_CHUNK_TOO_LARGE = -4,    /* a stored chunk is longer than its plaintext allows */
	SELFENC_INVALID_CHUNK_SIZE = -5, /* invalid chunk_size */
	SELFENC_SERIALISATION = -6,      /* malformed data map */
	SELFENC_COMPRESSION = -7,        /* a chunk cannot be decompressed */
	SELFENC_DECRYPTION = -8,         /* a chunk is damaged or was replaced */
	SELFENC_TOO_SMALL = -9,          /* less than 3 bytes */
	SELFENC_TOO_LARGE = -10,         /* too large for the encoding or for memory */
	SELFENC_ENCODING = -11,          /* encoding is neither 31 nor 36 */
	SELFENC_CALLBACK = -12,          /* put or get failed */
	SELFENC_OS = -1000               /* minus errno: a file cannot be read or written */
};

/* Callbacks run on the thread that called the function, one at a time. After a callback has
 * failed, and after the function has returned, no callback runs. The result 0 means failure,
 * because several languages return 0 to C when a function throws an exception. */

/* Stores a chunk. Returns 1 if it is stored, and any other number on failure. */
typedef int (*selfenc_put)(void *context, const uint8_t name[32], const uint8_t *data, size_t size);
/* Writes chunk `name` to `data`, at most `limit` bytes, and returns its size. Returns 0 on
 * failure, -1 if the chunk does not exist, and -3 if it is longer than `limit`. index is the
 * chunk's index in the given map or in the map of the data. It is 0 in the levels between. */
typedef int64_t (*selfenc_get)(void *context, const uint8_t name[32], uint64_t index, uint8_t *data, size_t limit);

#ifndef SELFENC_NO_PROTOTYPES

/* Encrypts size bytes, at least 3. Returns the map in form v1, and the chunks one after the
 * other, each after its length as a little-endian u64. */
int selfenc_encrypt(int encoding, size_t chunk_size, const char *map_form, const uint8_t *data, size_t size, uint8_t **map_out, size_t *map_size,
	uint8_t **chunks_out, size_t *chunks_size, char **error);

/* Decrypts the result of selfenc_encrypt. The chunks may be in any order, and the map in any
 * form. */
int selfenc_decrypt(int encoding, const uint8_t *map, size_t map_size, const uint8_t *chunks, size_t chunks_size,
	uint8_t **data_out, size_t *data_size, char **error);

/* Decrypts into memory. Calls get for each chunk. */
int selfenc_decrypt_store(int encoding, const uint8_t *map, size_t map_size, selfenc_get get, void *context,
	uint8_t **data_out, size_t *data_size, char **error);

/* Encrypts a file of any size with bounded memory, and passes each chunk to put. */
int selfenc_encrypt_file(int encoding, size_t chunk_size, const char *map_form, const char *path, selfenc_put put, void *context,
	uint8_t **map_out, size_t *map_size, char **error);

/* Decrypts into a file with bounded memory. Calls get for each chunk. The file gets its name
 * only when it is complete and durable. It replaces an existing regular file, but nothing else. */
int selfenc_decrypt_file(int encoding, const uint8_t *map, size_t map_size, const char *path,
	selfenc_get get, void *context, char **error);

/* Encrypts a map of more than three chunks, passes the new chunks to put, and returns the map of
 * the map in form v1. Repeats this until at most three chunks remain. selfenc_encrypt and
 * selfenc_encrypt_file already do this. */
int selfenc_shrink(int encoding, const char *map_form, const uint8_t *map, size_t map_size, selfenc_put put, void *context,
	uint8_t **map_out, size_t *map_out_size, char **error);

/* Follows a shrunk map to the map of the data itself, and returns it in form v1. */
int selfenc_root_map(int encoding, const uint8_t *map, size_t map_size, selfenc_get get, void *context,
	uint8_t **map_out, size_t *map_out_size, char **error);

/* Reads a map in any form, and writes it in the given form: "v0", "v0c", "v1" or "json". */
int selfenc_map_convert(const uint8_t *map, size_t map_size, const char *form, uint8_t **out, size_t *out_size, char **error);

/* Computes the name of a stored chunk. */
int selfenc_name(int encoding, const uint8_t *data, size_t size, uint8_t name[32], char **error);

/* Frees a result or message. NULL is ignored. */
void selfenc_free(void *p);

#endif

#ifdef __cplusplus
}
#endif

#endif
