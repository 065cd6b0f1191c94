// Command sealvol creates, mounts, checks and inspects sealed volumes. Installed as
// kubectl-sealvol, it is a kubectl plugin.
package main
