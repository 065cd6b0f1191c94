package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
)

func main() {
	typeName := flag.String("type", "", "count the fields and methods of this type")
	edges := flag.String("edges", "", "list what this file needs of other files, and what they need of it")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: rooms [-type NAME] [-edges FILE] DIRECTORY")
		os.Exit(2)
	}
	p, err := load(flag.Arg(0))
	if err == nil {
		err = report(os.Stdout, p, *typeName, *edges)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rooms:", err)
		os.Exit(1)
	}
}

func report(w io.Writer, p *pkg, typeName, edges string) error {
	if edges != "" {
		return p.printEdges(w, edges)
	}
	if typeName != "" {
		fields, methods, err := p.count(typeName)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s: %d fields, %d methods\n", typeName, fields, methods)
	}
	largest := largest(components(p.graph()))
	lines := 0
	for _, f := range largest {
		lines += p.lines[f]
	}
	total := 0
	for _, n := range p.lines {
		total += n
	}
	fmt.Fprintf(w, "%s: %d files, %d lines\n", p.path, len(p.lines), total)
	fmt.Fprintf(w, "largest strongly connected component: %d files, %d lines\n", len(largest), lines)
	slices.Sort(largest)
	for _, f := range largest {
		fmt.Fprintf(w, "  %s\n", f)
	}
	return nil
}
