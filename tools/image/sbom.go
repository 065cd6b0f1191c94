package main

import (
	"debug/buildinfo"
	"encoding/json"
	"path"
	"strings"
)

// The part of CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json/) that says what a program was built of.
type bom struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	PURL    string `json:"purl,omitempty"`
}

func module(p, version string) component {
	c := component{Type: "library", Name: p, Version: version}
	if version != "" && version != "(devel)" {
		c.PURL = "pkg:golang/" + p + "@" + version
	}
	return c
}

// billOfMaterials is what a Go program says of itself (`go version -m`), as CycloneDX; nil of what is no Go program. It has neither a date
// nor a serial number: the same program has the same list. A program that was built from sources without a version has the one given.
func billOfMaterials(file, version string) ([]byte, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, nil //nolint:nilerr // not a program, or not of Go
	}
	b := bom{Format: "CycloneDX", Spec: "1.5", Version: 1}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		version = info.Main.Version
	}
	b.Metadata.Component = component{Type: "application", Name: path.Base(info.Path), Version: version, PURL: "pkg:golang/" + info.Main.Path + "@" + version}
	b.Metadata.Component.PURL += strings.Replace(strings.TrimPrefix(info.Path, info.Main.Path), "/", "#", 1)
	b.Components = append(b.Components, module("std", info.GoVersion))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		b.Components = append(b.Components, module(m.Path, m.Version))
	}
	return json.MarshalIndent(b, "", "  ")
}
