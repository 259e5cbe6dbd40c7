module byrnie.dev/barrier

go 1.22
