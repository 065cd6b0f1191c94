package main

import (
	"slices"
	"strings"
	"testing"
)

func TestIdentify(t *testing.T) {
	const mit = "Permission is hereby granted, free of charge, to any person obtaining a copy\nof this software… The above copyright notice and this\npermission notice shall be included"
	const bsd = "Redistribution and use in source and binary forms, with or without modification"
	for text, want := range map[string][]string{
		"Apache License\n   Version 2.0, January 2004": {"Apache-2.0"},
		mit: {"MIT"},
		bsd: {"BSD-2-Clause"},
		bsd + "\n * Neither the name of X may be used to endorse or promote": {"BSD-3-Clause"},
		bsd + " All advertising materials":                                   {"BSD-4-Clause"},
		mit + "\nApache License, Version 2.0":                                {"Apache-2.0", "MIT"},
		"GNU GENERAL PUBLIC LICENSE Version 3":                               {"GPL"},
		mit + " or the GNU Lesser General\nPublic License":                   {"LGPL", "MIT"},
		"All rights reserved.":                                               nil,
	} {
		if got := identify(text); !slices.Equal(got, want) {
			t.Errorf("%q: %v, not %v", text, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "no licence file",
		"All rights reserved.":       "unknown licence",
		"GNU General Public License": "GPL is not among",
	} {
		m := &module{path: "example.com/x"}
		if text != "" {
			m.licences = []document{{name: "example.com/x: LICENSE", text: text}}
		}
		if err := m.judge(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %q", text, err, want)
		}
	}
}
