//go:build !race

package selfenc

const raceDetector = false
