// Package device tests block devices, which only root can make.
package device
