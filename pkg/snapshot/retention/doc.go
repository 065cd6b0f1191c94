// Package retention decides which snapshots of a store to forget. It is pure: it
// looks at nothing but what it is given, and says for each snapshot why it stays
// or goes, in words for people.
//
// Snapshots are grouped by volume, or as the caller says; each group keeps, in
// its own count, the newest of each hour, day, week, month and year that has any,
// the newest ones, and those with certain tags. What several rules keep counts
// for each of them. The newest whole snapshot of a group always stays, and what
// is not whole neither counts nor goes.
package retention
