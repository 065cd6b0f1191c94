package main

import (
	"maps"
	"slices"
)

// components returns the strongly connected components of a graph, by Tarjan's algorithm.
func components(graph map[string]map[string][]string) [][]string {
	t := tarjan{graph: graph, index: map[string]int{}, low: map[string]int{}, on: map[string]bool{}}
	for _, n := range slices.Sorted(maps.Keys(graph)) {
		if t.index[n] == 0 {
			t.visit(n)
		}
	}
	return t.found
}

type tarjan struct {
	graph map[string]map[string][]string
	index map[string]int // from 1 on, in the order of visits
	low   map[string]int // smallest index that can be reached
	stack []string
	on    map[string]bool // the stack
	found [][]string
}

func (t *tarjan) visit(n string) {
	t.index[n] = len(t.index) + 1
	t.low[n] = t.index[n]
	t.stack = append(t.stack, n)
	t.on[n] = true
	for _, to := range slices.Sorted(maps.Keys(t.graph[n])) {
		if t.index[to] == 0 {
			t.visit(to)
			t.low[n] = min(t.low[n], t.low[to])
		} else if t.on[to] {
			t.low[n] = min(t.low[n], t.index[to])
		}
	}
	if t.low[n] != t.index[n] {
		return
	}
	at := slices.Index(t.stack, n)
	t.found = append(t.found, slices.Clone(t.stack[at:]))
	for _, m := range t.stack[at:] {
		t.on[m] = false
	}
	t.stack = t.stack[:at]
}

func largest(components [][]string) (most []string) {
	for _, c := range components {
		if len(c) > len(most) {
			most = c
		}
	}
	return most
}
