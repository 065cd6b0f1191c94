package main

import (
	"debug/buildinfo"
	"encoding/json"
	"path"
	"strings"
)

// The subset of CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json/) that describes the modules of
// a program.
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

// billOfMaterials returns the build information of a Go program (`go version -m`) as CycloneDX, or
// nil for another file. It has no date and no serial number, so the same program always has the
// same list. A program that was built from sources without a version gets the given version.
func billOfMaterials(file, version string) ([]byte, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, nil // not a Go program
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
