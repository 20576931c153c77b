package scheduler

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
)

// wire is a serializer for clients that watch custom resources. The general one reads each byte of an event some nine
// times: to find the event's end, to check it, to learn what it is, and that again for the object in it. An API
// server writes one event per line, its type first, and a custom resource with its kind first: so this one looks there,
// and reads an object once to check and once to decode it. What is written otherwise goes the general way.
type wire struct {
	runtime.NegotiatedSerializer
}

// SupportedMediaTypes are the general ones, of which JSON is decoded here.
func (w wire) SupportedMediaTypes() []runtime.SerializerInfo {
	infos := slices.Clone(w.NegotiatedSerializer.SupportedMediaTypes()) // it shares its own
	for i := range infos {
		if infos[i].MediaType != runtime.ContentTypeJSON || infos[i].StreamSerializer == nil {
			continue
		}
		stream := *infos[i].StreamSerializer
		infos[i].StreamSerializer = &runtime.StreamSerializerInfo{
			EncodesAsText: stream.EncodesAsText, Serializer: eventSerializer{stream.Serializer}, Framer: lineFramer{stream.Framer},
		}
		infos[i].Serializer = objectSerializer{infos[i].Serializer}
	}
	return infos
}

// eventSerializer decodes an event and leaves its object as it is: a part of the event's bytes.
type eventSerializer struct{ runtime.Serializer }

func (s eventSerializer) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if event, ok := into.(*metav1.WatchEvent); ok {
		if kind, object, ok := cutEvent(data); ok {
			event.Type, event.Object.Raw = kind, object
			return event, nil, nil
		}
	}
	return s.Serializer.Decode(data, defaults, into)
}

// cutEvent takes an event apart. Whether the object is well formed shows when it is decoded.
func cutEvent(data []byte) (kind string, object []byte, ok bool) {
	kind, object, ok = cutString(data, `{"type":"`)
	if !ok {
		return "", nil, false
	}
	if object, ok = bytes.CutPrefix(object, []byte(`,"object":`)); !ok {
		return "", nil, false
	}
	if object, ok = bytes.CutSuffix(object, []byte("}")); !ok || !whole(object) {
		return "", nil, false
	}
	return kind, object, true
}

// whole reports whether text is one object or list, from its first to its last byte, if it is well formed.
func whole(text []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			if depth--; depth == 0 {
				return i == len(text)-1
			}
		}
	}
	return false
}

// cutString returns the plain string that follows prefix, and what follows its quotation mark.
func cutString(data []byte, prefix string) (text string, rest []byte, ok bool) {
	rest, ok = bytes.CutPrefix(data, []byte(prefix))
	if !ok {
		return "", nil, false
	}
	end := bytes.IndexAny(rest, `"\`)
	if end < 0 || rest[end] == '\\' {
		return "", nil, false
	}
	return string(rest[:end]), rest[end+1:], true
}

// objectSerializer decodes objects of kinds that it finds at their beginning.
type objectSerializer struct{ runtime.Serializer }

func (s objectSerializer) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if into == nil {
		if version, rest, ok := cutString(data, `{"apiVersion":"`); ok {
			if kind, _, ok := cutString(rest, `,"kind":"`); ok {
				gvk := schema.FromAPIVersionAndKind(version, kind)
				if object, err := kinds.New(gvk); err == nil && kjson.UnmarshalCaseSensitivePreserveInts(data, object) == nil {
					return object, &gvk, nil
				}
			}
		}
	}
	return s.Serializer.Decode(data, defaults, into)
}

// lineFramer finds the ends of events by their lines: no line break is inside of one, since JSON escapes these in strings.
type lineFramer struct{ runtime.Framer }

func (lineFramer) NewFrameReader(r io.ReadCloser) io.ReadCloser {
	return &lineReader{Closer: r, from: bufio.NewReaderSize(r, 64<<10)}
}

// lineReader returns one line per Read, and io.ErrShortBuffer as long as there is more of it.
type lineReader struct {
	io.Closer
	from *bufio.Reader
	// rest is what is left of what was read of a line, which goes on if more.
	rest []byte
	more bool
}

// Read reads a line, or what there is room for.
func (l *lineReader) Read(data []byte) (int, error) {
	for len(l.rest) == 0 {
		within := l.more
		part, err := l.from.ReadSlice('\n')
		switch l.more = errors.Is(err, bufio.ErrBufferFull); {
		case l.more:
			l.rest = part
		case err == nil:
			l.rest = bytes.TrimRight(part, "\r\n")
		case errors.Is(err, io.EOF) && (within || len(part) > 0):
			return 0, io.ErrUnexpectedEOF
		default:
			return 0, err
		}
		if within && !l.more && len(l.rest) == 0 {
			return 0, nil // the line had ended just there
		}
	}
	n := copy(data, l.rest)
	if l.rest = l.rest[n:]; len(l.rest) > 0 || l.more {
		return n, io.ErrShortBuffer
	}
	return n, nil
}
