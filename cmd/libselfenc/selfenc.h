/* The C ABI of self-encryption, in the reference implementation's encodings.
 *
 * Functions return 0, or -1 and set *error to a text (unless error is NULL).
 * What they return through pointers is freed with selfenc_free. They are safe
 * for use by several threads. `encoding` is 31 or 36. */
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

#ifdef __cplusplus
}
#endif

#endif
