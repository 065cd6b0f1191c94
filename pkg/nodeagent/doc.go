// Package nodeagent is what a node does for the operator: it reports on the volumes that are mounted there, and keeps their anchors.
package nodeagent
