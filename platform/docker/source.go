package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// source is what a tree asks to be built and run.
type source struct {
	tree      string
	run       dockerrun
	file      dockerfile
	generated []byte // the Dockerfile, where the tree has none and only names an image
}

// The sentences of the original for bundles that cannot be built.
const (
	sentenceBothMissing = "Dockerfile and Dockerrun.aws.json are both missing, abort deployment"
	sentenceNoImage     = "No Docker image specified in either Dockerfile or Dockerrun.aws.json. Abort deployment."
	sentenceNoExpose    = "No EXPOSE directive found in Dockerfile, abort deployment"
	sentenceSyntax      = "Failed to parse Dockerrun.aws.json file, abort deployment"
	sentenceVersion     = "Invalid Dockerrun.aws.json version, abort deployment"
)

// readSource reads what the tree says. Errors are Failures whose sentence is for people.
func readSource(tree string) (source, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return source{}, fmt.Errorf("open application tree: %w", err)
	}
	defer root.Close()
	s := source{tree: tree}
	hasRun, err := s.readDockerrun(root)
	if err != nil {
		return source{}, dockerrunFailure(err)
	}
	text, err := readInTree(root, "Dockerfile", maxDockerfile)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return source{}, &Failure{Sentence: "The Dockerfile cannot be used, abort deployment", Cause: err}
	case !hasRun:
		return source{}, &Failure{Sentence: sentenceBothMissing}
	case s.run.image == "":
		return source{}, &Failure{Sentence: sentenceNoImage}
	default:
		s.generated = s.run.dockerfileFor()
		text = s.generated
	}
	if s.file, err = scanDockerfile(text); err != nil {
		return source{}, &Failure{Sentence: sentenceNoImage, Cause: err}
	}
	return s, nil
}

func (s *source) readDockerrun(root *os.Root) (bool, error) {
	s.run.update = true
	data, err := readInTree(root, "Dockerrun.aws.json", maxDockerrun)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", errDockerrunSyntax, err)
	}
	s.run, err = parseDockerrun(data)
	return true, err
}

func dockerrunFailure(err error) error {
	f := &Failure{Sentence: sentenceSyntax, Cause: err}
	switch {
	case errors.Is(err, errDockerrunVersion):
		f.Sentence = sentenceVersion
	case errors.Is(err, errDockerrunLogin):
		f.Sentence, f.Cause = "This source bundle cannot be deployed: "+err.Error()+".", nil
	}
	return f
}

// choosePort says where the container listens: the first port the Dockerfile exposes, else the property PORT.
func choosePort(exposed string, environment map[string]string) (string, error) {
	if exposed != "" {
		return exposed, nil
	}
	if port, ok := tcpPort(environment["PORT"]); ok {
		return port, nil
	}
	return "", &Failure{Sentence: sentenceNoExpose}
}
