package items

import "github.com/sealvol/sealvol/pkg/volume/internal/layout"

// EachCopy calls fn with the place of each copy of a page.
func EachCopy(p *layout.Pointer, fn func(layout.Run)) {
	fn(layout.Run{Start: p.Addr / layout.BlockBytes, Count: layout.NodeBlocks})
	if p.Addr2 != 0 {
		fn(layout.Run{Start: p.Addr2 / layout.BlockBytes, Count: layout.NodeBlocks})
	}
}
