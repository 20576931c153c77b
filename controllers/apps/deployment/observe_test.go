package deployment

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	dappsv1 "drayage.dev/apis/apps/v1"
)

var _ = Describe("own writes", func() {
	key := types.NamespacedName{Namespace: "default", Name: "web"}
	set := func(name string, generation int64) dappsv1.ReplicaSet {
		return dappsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: generation}}
	}
	var written *ownWrites
	now := time.Now()

	BeforeEach(func() {
		written = newOwnWrites()
		for _, change := range []dappsv1.ReplicaSet{set("new", 1), set("old", 5)} {
			written.note(key, &change, now)
		}
	})

	It("are missing until the cache shows each of them, at whatever time", func() {
		Expect(written.missing(key, []dappsv1.ReplicaSet{set("old", 4)}, now)).To(BeTrue())
		Expect(written.missing(key, []dappsv1.ReplicaSet{set("old", 5)}, now)).To(BeTrue())
		Expect(written.missing(key, []dappsv1.ReplicaSet{set("old", 4), set("new", 2)}, now)).To(BeFalse())
		Expect(written.pending).To(BeEmpty())
	})

	It("are given up in the end, and forgotten with their Deployment", func() {
		Expect(written.missing(key, nil, now.Add(patience+time.Second))).To(BeFalse())
		Expect(written.pending).To(BeEmpty())
		change := set("new", 1)
		written.note(key, &change, now)
		written.forget(key)
		Expect(written.missing(key, nil, now)).To(BeFalse())
	})
})
