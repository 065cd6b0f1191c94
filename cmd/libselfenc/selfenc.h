/*
 * The C ABI of self-encryption, in the reference implementation's encodings.
 *
 * Functions return 0, or -1 and set *error to a text (error may be NULL). What they return
 * through pointers is freed with selfenc_free; after an error it is NULL. They may be called by
 * several threads at once. encoding is 31 or 36.
 */
#ifndef SELFENC_H
#define SELFENC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Stores a chunk; returns 0 unless it failed. Called by several threads at once. */
typedef int (*selfenc_put)(void *context, const uint8_t name[32], const uint8_t *data, size_t size);
/* Writes chunk `name`, of at most `limit` bytes, to `data`; returns its size, -1 if there is
 * none, -2 if it failed, -3 if it is longer. Called by several threads at once. */
typedef int64_t (*selfenc_get)(void *context, const uint8_t name[32], uint64_t index, uint8_t *data, size_t limit);

#ifndef SELFENC_NO_PROTOTYPES

/* Encrypts size bytes, at least 3 and at most 2 GiB. The map comes in form v1; the chunks one after
 * the other, each behind its length as u64, little-endian. */
int selfenc_encrypt(int encoding, const uint8_t *data, size_t size, uint8_t **map_out, size_t *map_size,
	uint8_t **chunks_out, size_t *chunks_size, char **error);

/* Decrypts what selfenc_encrypt returned, in memory of at most 2 GiB; the chunks in any order, the
 * map in any form. */
int selfenc_decrypt(int encoding, const uint8_t *map, size_t map_size, const uint8_t *chunks, size_t chunks_size,
	uint8_t **data_out, size_t *data_size, char **error);

/* Encrypts a file of any size with bounded memory, and passes each chunk to put. */
int selfenc_encrypt_file(int encoding, const char *path, selfenc_put put, void *context,
	uint8_t **map_out, size_t *map_size, char **error);

/* Asks get for chunks and writes a file, which gets its name when it is whole. */
int selfenc_decrypt_file(int encoding, const uint8_t *map, size_t map_size, const char *path,
	selfenc_get get, void *context, char **error);

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
