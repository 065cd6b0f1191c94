/*
 * The C ABI of self-encryption, in the reference implementation's encodings.
 *
 * Functions return 0, or a negative number that says what is wrong (enum selfenc_error, or
 * SELFENC_OS - errno) and set *error to a text (error may be NULL). What they return through
 * pointers is freed with selfenc_free; after an error it is NULL. They may be called by several
 * threads at once. encoding is 31 or 36. chunk_size is the most plaintext in a chunk; 0 is the
 * encoding's own. map_form is how levels of a map are written that are chunks themselves: "v0c" or
 * "v1" (releases 0.32 to 0.34 read nothing else) with encoding 31, "v1" with 36; NULL is "v0c" with 31.
 * Data in memory is at most 2 GiB.
 *
 * The library's threads do not survive fork: a child calls nothing of it.
 */
#ifndef SELFENC_H
#define SELFENC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum selfenc_error {
	SELFENC_GENERIC = -1,            /* NULL where something is needed, no such form of a map, ... */
	SELFENC_NO_SUCH_CHUNK = -2,      /* the map names a chunk that the store does not have */
	SELFENC_CHUNK_TOO_SMALL = -3,    /* a stored chunk is shorter than any */
	SELFENC_CHUNK_TOO_LARGE = -4,    /* a stored chunk is longer than its plaintext allows */
	SELFENC_INVALID_CHUNK_SIZE = -5, /* chunk_size */
	SELFENC_SERIALISATION = -6,      /* what should be a map is none */
	SELFENC_COMPRESSION = -7,        /* a chunk does not decompress */
	SELFENC_DECRYPTION = -8,         /* a chunk is not the one that was stored */
	SELFENC_TOO_SMALL = -9,          /* less than 3 bytes */
	SELFENC_TOO_LARGE = -10,         /* more than the encoding, or memory at once, can hold */
	SELFENC_ENCODING = -11,          /* encoding is neither 31 nor 36 */
	SELFENC_CALLBACK = -12,          /* put or get said that it failed */
	SELFENC_OS = -1000               /* less errno: a file could not be read or written */
};

/* Callbacks run on the thread that called the function, one at a time, and none after the function
 * has returned. Once one has failed no other is called. 0 is a failure: it is what several
 * languages return to C for a function that threw. */

/* Stores a chunk; returns 1 once it is stored, anything else if it failed. */
typedef int (*selfenc_put)(void *context, const uint8_t name[32], const uint8_t *data, size_t size);
/* Writes chunk `name`, of at most `limit` bytes, to `data`; returns its size, 0 if it failed, -1 if
 * there is none, -3 if it is longer. index is the chunk's number in the map that was given, or among those of the
 * data; 0 in levels between. */
typedef int64_t (*selfenc_get)(void *context, const uint8_t name[32], uint64_t index, uint8_t *data, size_t limit);

#ifndef SELFENC_NO_PROTOTYPES

/* Encrypts size bytes, at least 3. The map comes in form v1; the chunks one after the other, each
 * behind its length as u64, little-endian. */
int selfenc_encrypt(int encoding, size_t chunk_size, const char *map_form, const uint8_t *data, size_t size, uint8_t **map_out, size_t *map_size,
	uint8_t **chunks_out, size_t *chunks_size, char **error);

/* Decrypts what selfenc_encrypt returned; the chunks in any order, the map in any form. */
int selfenc_decrypt(int encoding, const uint8_t *map, size_t map_size, const uint8_t *chunks, size_t chunks_size,
	uint8_t **data_out, size_t *data_size, char **error);

/* Decrypts in memory what it asks get for. */
int selfenc_decrypt_store(int encoding, const uint8_t *map, size_t map_size, selfenc_get get, void *context,
	uint8_t **data_out, size_t *data_size, char **error);

/* Encrypts a file of any size with bounded memory, and passes each chunk to put. */
int selfenc_encrypt_file(int encoding, size_t chunk_size, const char *map_form, const char *path, selfenc_put put, void *context,
	uint8_t **map_out, size_t *map_size, char **error);

/* Asks get for chunks and writes a file with bounded memory. It gets its name when it is whole and
 * durable, and replaces no other thing than a regular file. */
int selfenc_decrypt_file(int encoding, const uint8_t *map, size_t map_size, const char *path,
	selfenc_get get, void *context, char **error);

/* Encrypts a map of more than three chunks, passes these chunks to put and returns the map of the
 * map, in form v1; as often as it takes. selfenc_encrypt and selfenc_encrypt_file have done so. */
int selfenc_shrink(int encoding, const char *map_form, const uint8_t *map, size_t map_size, selfenc_put put, void *context,
	uint8_t **map_out, size_t *map_out_size, char **error);

/* Returns, in form v1, the map of the data itself, which a shrunk map leads to. */
int selfenc_root_map(int encoding, const uint8_t *map, size_t map_size, selfenc_get get, void *context,
	uint8_t **map_out, size_t *map_out_size, char **error);

/* Reads a map in any form and writes it in the one named: "v0", "v0c", "v1" or "json". */
int selfenc_map_convert(const uint8_t *map, size_t map_size, const char *form, uint8_t **out, size_t *out_size, char **error);

/* Writes the name that a stored chunk has. */
int selfenc_name(int encoding, const uint8_t *data, size_t size, uint8_t name[32], char **error);

/* Frees what a function returned; NULL is ignored. */
void selfenc_free(void *p);

#endif

#ifdef __cplusplus
}
#endif

#endif
