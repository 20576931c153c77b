package images

import (
	"errors"
	"strings"

	"google.golang.org/grpc/status"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// withTag adds the default tag to a name with neither tag nor digest, as upstream's manager does before
// it uses the name as a key.
func withTag(image string) string {
	_, tag, digest, err := parsers.ParseImageName(image)
	if err == nil && digest == "" && tag != "" && !strings.HasSuffix(image, ":"+tag) {
		return image + ":" + tag
	}
	return image
}

// message is the runtime's text without the transport's prefix; users read it.
func message(err error) error {
	if answer, ok := status.FromError(err); ok && err != nil {
		return errors.New(answer.Message())
	}
	return err
}
