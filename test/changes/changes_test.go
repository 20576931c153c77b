package changes_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"drayage.dev/test/changes"
)

var _ = Describe("changes", func() {
	It("go on where the server ended the watch", func(ctx context.Context) {
		type asked struct {
			options client.ListOptions
			events  *watch.FakeWatcher
		}
		watches := make(chan asked, 2)
		server := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
			List: func(_ context.Context, _ client.WithWatch, list client.ObjectList, _ ...client.ListOption) error {
				list.SetResourceVersion("7")
				return nil
			},
			Watch: func(_ context.Context, _ client.WithWatch, _ client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
				a := asked{events: watch.NewFake()}
				a.options.ApplyOptions(options)
				watches <- a
				return a.events, nil
			},
		})
		list := &corev1.ConfigMapList{}
		following, err := changes.Of(ctx, server, list, client.InNamespace("here"))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(following.Stop)
		changed := func(version string) *corev1.ConfigMap {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one", ResourceVersion: version}}
		}
		var first, second asked
		Eventually(watches, 10*time.Second).Should(Receive(&first))
		Expect(first.options.Namespace).To(Equal("here"))
		Expect(first.options.Raw.ResourceVersion).To(Equal("7"))
		first.events.Add(changed("8"))
		Eventually(following.ResultChan(), 10*time.Second).Should(Receive(HaveField("Object", changed("8"))))
		first.events.Stop()
		Eventually(watches, 10*time.Second).Should(Receive(&second))
		Expect(second.options.Namespace).To(Equal("here"))
		Expect(second.options.Raw.ResourceVersion).To(Equal("8"))
		second.events.Modify(changed("9"))
		Eventually(following.ResultChan(), 10*time.Second).Should(Receive(HaveField("Object", changed("9"))))
	})
})
