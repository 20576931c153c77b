package scheduler_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/watch"
	restwatch "k8s.io/client-go/rest/watch"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/scheduler"
)

var _ = Describe("decoding a watch", func() {
	// decode reads a stream to its end, as client-go does.
	decode := func(with runtime.NegotiatedSerializer, stream io.Reader) (events []watch.Event, end error) {
		objects, events2, framer, err := runtime.NewClientNegotiator(with, dcorev1.GroupVersion).StreamDecoder(runtime.ContentTypeJSON, nil)
		Expect(err).NotTo(HaveOccurred())
		decoder := restwatch.NewDecoder(streaming.NewDecoder(framer.NewFrameReader(io.NopCloser(stream)), events2), objects)
		for {
			kind, object, err := decoder.Decode()
			if err != nil {
				return events, err
			}
			events = append(events, watch.Event{Type: kind, Object: object})
		}
	}
	pod := func(text string) *dcorev1.Pod {
		p := &dcorev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: dcorev1.GroupVersion.String(), Kind: "Pod"}}
		p.Name, p.ResourceVersion = "web", "7"
		p.Annotations = map[string]string{"text": text}
		p.Spec.Containers = []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
		}}}
		return p
	}
	event := func(kind watch.EventType, object any) string {
		GinkgoHelper()
		inner, err := json.Marshal(object)
		Expect(err).NotTo(HaveOccurred())
		// As an API server writes custom resources: keys in order.
		var sorted map[string]any
		Expect(json.Unmarshal(inner, &sorted)).To(Succeed())
		inner, err = json.Marshal(sorted)
		Expect(err).NotTo(HaveOccurred())
		return fmt.Sprintf("{%q:%q,%q:%s}\n", "type", kind, "object", inner)
	}
	status := &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: 410,
	}
	bookmark := &dcorev1.Pod{TypeMeta: pod("").TypeMeta}
	bookmark.ResourceVersion = "12"

	// The line break comes alone, after as much as is read at a time.
	filling := pod("")
	filling.Annotations["text"] = strings.Repeat("x", 1<<16-len(event(watch.Added, filling))+1)

	streams := map[string]string{
		"a full buffer":      event(watch.Added, filling) + event(watch.Added, pod("next")),
		"events":             event(watch.Added, pod("a")) + event(watch.Modified, pod("\"}\n{\\")) + event(watch.Deleted, &dcorev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: dcorev1.GroupVersion.String(), Kind: "Node"}}),
		"a bookmark":         event(watch.Bookmark, bookmark),
		"an error":           event(watch.Error, status),
		"long lines":         event(watch.Added, pod(strings.Repeat("x", 1<<17))) + event(watch.Added, pod(strings.Repeat("y", 1<<16))) + event(watch.Added, pod("z")),
		"an unknown kind":    event(watch.Added, map[string]any{"apiVersion": "core.drayage.dev/v9", "kind": "Ship"}),
		"no object":          `{"type":"ADDED","object":7}` + "\n",
		"an unknown type":    event("BORROWED", pod("a")),
		"the object first":   `{"object":{"kind":"Pod","apiVersion":"core.drayage.dev/v1"},"type":"ADDED"}` + "\n",
		"a broken object":    `{"type":"ADDED","object":{"apiVersion":"core.drayage.dev/v1","kind":"Pod","metadata":{}` + "\n",
		"more in the event":  `{"type":"ADDED","object":{"apiVersion":"core.drayage.dev/v1","kind":"Pod"},"more":{}}` + "\n",
		"a field's type":     `{"type":"ADDED","object":{"apiVersion":"core.drayage.dev/v1","kind":"Pod","spec":7}}` + "\n",
		"the middle missing": event(watch.Added, pod("a")) + `{"type":"ADDED","obj`,
		"empty lines":        "\n\r\n" + event(watch.Added, pod("a")) + "\n" + event(watch.Deleted, pod("a")),
		"nothing":            "",
	}
	for name, text := range streams {
		It("ends as the general way does: "+name, func() {
			general, generalEnd := decode(scheduler.Codecs, strings.NewReader(text))
			ours, end := decode(scheduler.WireCodecs, strings.NewReader(text))
			Expect(ours).To(Equal(general))
			Expect(end == nil).To(Equal(generalEnd == nil))
			Expect(errors.Is(end, io.EOF)).To(Equal(errors.Is(generalEnd, io.EOF)), "%v, %v", end, generalEnd)
		})
	}

	It("leaves the general way as it is", func() {
		before := slices.Clone(scheduler.Codecs.SupportedMediaTypes())
		scheduler.WireCodecs.SupportedMediaTypes()
		Expect(scheduler.Codecs.SupportedMediaTypes()).To(Equal(before))
	})

	It("takes a stream in pieces of any size", func() {
		text := streams["events"] + streams["long lines"] + streams["an error"]
		whole, _ := decode(scheduler.WireCodecs, strings.NewReader(text))
		Expect(whole).To(HaveLen(7))
		for range 20 {
			pieces, end := decode(scheduler.WireCodecs, inPieces{strings.NewReader(text)})
			Expect(end).To(MatchError(io.EOF))
			Expect(pieces).To(Equal(whole))
		}
	})

	It("does not go the general way for what an API server writes", func() {
		for _, name := range []string{"events", "a bookmark", "long lines"} {
			events, _ := decode(scheduler.NewWire(refusing{scheduler.Codecs}), strings.NewReader(streams[name]))
			Expect(events).To(HaveLen(strings.Count(streams[name], "\n")), name)
		}
	})
})

type inPieces struct{ io.Reader }

func (p inPieces) Read(data []byte) (int, error) {
	return p.Reader.Read(data[:1+rand.IntN(min(len(data), 40000))])
}

// refusing decodes nothing itself.
type refusing struct{ runtime.NegotiatedSerializer }

func (r refusing) SupportedMediaTypes() []runtime.SerializerInfo {
	infos := slices.Clone(r.NegotiatedSerializer.SupportedMediaTypes())
	for i := range infos {
		if infos[i].StreamSerializer == nil {
			continue
		}
		stream := *infos[i].StreamSerializer
		infos[i].Serializer, stream.Serializer = noDecoder{infos[i].Serializer}, noDecoder{stream.Serializer}
		infos[i].StreamSerializer = &stream
	}
	return infos
}

type noDecoder struct{ runtime.Serializer }

func (noDecoder) Decode(data []byte, _ *schema.GroupVersionKind, _ runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	return nil, nil, fmt.Errorf("the general way for %s", bytes.TrimSpace(data))
}
