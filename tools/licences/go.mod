module github.com/sealvol/sealvol/tools/licences

go 1.26.0
