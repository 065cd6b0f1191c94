// Package fetch reads many chunks of a snapshot in the order in which they lie in packs: for
// restore and verification, where a request for each chunk would take days.
//
// The caller collects a window of chunks, in any order. Fetcher sorts them by pack and offset,
// joins neighbours to ranges, and fetches several ranges at once. So a pack is read at most once in
// a window, in few requests. It calls back with each chunk's verified plaintext.
package fetch
