// Package charts contains the tests of the chart and no other code.
package charts
