// Package device tests block devices, which only root can create.
package device
