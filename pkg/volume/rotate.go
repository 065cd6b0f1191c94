package volume

func (v *Volume) addNext(slot int, key Key) error { return nil }
func (v *Volume) dropNext(slots []int) error      { return nil }

type rotator struct{}

func (r *rotator) kick() {}
