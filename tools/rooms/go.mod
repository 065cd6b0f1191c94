module github.com/sealvol/sealvol/tools/rooms

go 1.26.0
