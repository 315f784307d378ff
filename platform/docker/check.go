package docker

// CheckSource tells whether what stands in a folder can be built at all, by its Dockerfile and Dockerrun.aws.json alone, with the sentence an instance
// would fail with. It asks no Engine; whoever has a bundle can know before it is sent anywhere.
func CheckSource(tree string) error {
	_, err := readSource(tree)
	return err
}
