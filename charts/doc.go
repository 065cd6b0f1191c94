// Package charts holds the tests of the chart, and nothing else.
package charts
