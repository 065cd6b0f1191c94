package main

import "strings"

// allowed are the licences whose programs may be shipped under Apache-2.0 together with their
// texts.
var allowed = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "Unlicense"}

// marks are the phrases that identify a licence: all of has and none of not. The list includes
// licences that are not allowed, so that a text with several licences is not mistaken for an
// allowed one.
var marks = []struct {
	id       string
	has, not []string
}{
	{id: "AGPL", has: []string{"gnu affero general public license"}},
	{id: "Apache-2.0", has: []string{"apache license", "version 2.0"}},
	{id: "BSD-2-Clause", has: []string{"redistribution and use in source and binary forms"}, not: []string{"endorse or promote", "advertising materials"}},
	{id: "BSD-3-Clause", has: []string{"redistribution and use in source and binary forms", "endorse or promote"}, not: []string{"advertising materials"}},
	{id: "BSD-4-Clause", has: []string{"redistribution and use in source and binary forms", "advertising materials"}},
	{id: "BUSL", has: []string{"business source license"}},
	{id: "CC0-1.0", has: []string{"cc0 1.0 universal"}},
	{id: "CDDL", has: []string{"common development and distribution license"}},
	{id: "EPL", has: []string{"eclipse public license"}},
	{id: "GPL", has: []string{"gnu general public license"}},
	{id: "ISC", has: []string{"permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted", "copyright notice and this permission notice appear"}},
	{id: "LGPL", has: []string{"gnu lesser general public license"}},
	{id: "LGPL", has: []string{"gnu library general public license"}},
	{id: "MIT", has: []string{"permission is hereby granted, free of charge, to any person obtaining a copy", "copyright notice and this permission notice shall be included"}},
	{id: "MPL", has: []string{"mozilla public license"}},
	{id: "SSPL", has: []string{"server side public license"}},
	{id: "Unlicense", has: []string{"this is free and unencumbered software released into the public domain"}},
}

// identify returns the licences in a text, or none if it is unknown.
func identify(text string) (ids []string) {
	plain := strings.Join(strings.Fields(strings.ToLower(text)), " ")
	contains := func(phrase string) bool { return strings.Contains(plain, phrase) }
next:
	for _, m := range marks {
		for _, phrase := range m.has {
			if !contains(phrase) {
				continue next
			}
		}
		for _, phrase := range m.not {
			if contains(phrase) {
				continue next
			}
		}
		ids = append(ids, m.id)
	}
	return ids
}
