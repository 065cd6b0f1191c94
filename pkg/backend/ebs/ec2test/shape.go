package ec2test

// limits of the volume types,
// https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html
type kindLimits struct {
	minGiB, maxGiB                int64
	minIOPS, maxIOPS, perGiB, std int64
	minMiBs, maxMiBs, stdMiBs     int64
}

var kinds = map[string]kindLimits{
	"gp2": {minGiB: 1, maxGiB: 16384}, "gp3": {minGiB: 1, maxGiB: 65536, minIOPS: 3000, maxIOPS: 80000, perGiB: 500, std: 3000, minMiBs: 125, maxMiBs: 2000, stdMiBs: 125},
	"io1": {minGiB: 4, maxGiB: 16384, minIOPS: 100, maxIOPS: 64000, perGiB: 50}, "io2": {minGiB: 4, maxGiB: 65536, minIOPS: 100, maxIOPS: 256000, perGiB: 1000},
	"st1": {minGiB: 125, maxGiB: 16384}, "sc1": {minGiB: 125, maxGiB: 16384}, "standard": {minGiB: 1, maxGiB: 1024},
}

// checkShape is EC2's validation of a new volume; it sets defaults.
func checkShape(x *shape) error { return checkChange(x, said{x.iops != 0, x.throughput != 0}) }

// said tells which values a request contains.
type said struct{ iops, throughput bool }

func checkChange(x *shape, said said) error {
	k, ok := kinds[x.kind]
	switch {
	case !ok:
		return fail("InvalidParameterValue", "Invalid value '%s' for volumeType.", x.kind)
	case x.size > k.maxGiB:
		return fail("InvalidParameterValue", "Volume of %dGiB is too large for volume type %s; maximum is %dGiB", x.size, x.kind, k.maxGiB)
	case x.size < k.minGiB:
		return fail("InvalidParameterValue", "Volume of %dGiB is too small; minimum is %dGiB.", x.size, k.minGiB)
	case said.iops && k.maxIOPS == 0:
		return fail("InvalidParameterCombination", "The parameter iops is not supported for %s volumes.", x.kind)
	case x.iops == 0 && k.maxIOPS > 0 && k.std == 0:
		return fail("MissingParameter", "The request must contain the parameter iops")
	case x.iops > k.maxIOPS && k.maxIOPS > 0:
		return fail("InvalidParameterValue", "Volume iops of %d is too high; maximum is %d.", x.iops, k.maxIOPS)
	case x.iops != 0 && x.iops < k.minIOPS:
		return fail("InvalidParameterValue", "Volume iops of %d is too low; minimum is %d.", x.iops, k.minIOPS)
	case k.perGiB > 0 && x.iops > k.std && x.iops > k.perGiB*x.size:
		return fail("InvalidParameterValue", "Iops to volume size ratio of %d is too high; maximum is %d.0", x.iops/x.size, k.perGiB)
	case said.throughput && k.maxMiBs == 0:
		return fail("InvalidParameterCombination", "The parameter throughput is not supported for %s volumes.", x.kind)
	case x.throughput > k.maxMiBs && k.maxMiBs > 0:
		return fail("InvalidParameterValue", "Throughput of %d is too high; maximum is %d.", x.throughput, k.maxMiBs)
	case x.throughput != 0 && x.throughput < k.minMiBs:
		return fail("InvalidParameterValue", "Throughput of %d is too low; minimum is %d.", x.throughput, k.minMiBs)
	}
	if x.iops == 0 {
		x.iops = k.std
	}
	if x.kind == "gp2" {
		x.iops = burst(x.size)
	}
	if x.throughput == 0 {
		x.throughput = k.stdMiBs
	}
	if x.throughput*4 > max(x.iops, 1) && k.maxMiBs > 0 {
		return fail("InvalidParameterValue", "Throughput to iops ratio of %f is too high; maximum is 0.250000", float64(x.throughput)/float64(x.iops))
	}
	return nil
}

// burst is what EC2 shows as the IOPS of a gp2 volume: EC2 derives it from the size, and a request
// must not set it.
func burst(gib int64) int64 { return min(max(3*gib, 100), 16000) }

// retyped is what EC2 makes of a volume whose type changes, before it applies the requested values:
// values that were set for the old type no longer count.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyVolume.html
func (x shape) retyped(kind string) shape {
	to := shape{kind: kind, size: x.size}
	switch kind {
	case "io1", "io2":
		to.iops = 3000
	case "gp3":
		to.iops, to.throughput = 3000, 125
		if x.kind == "gp2" { // not slower than before
			to.iops = max(to.iops, x.iops)
			if x.size > 170 {
				to.throughput = 250
			}
		}
	}
	return to
}
