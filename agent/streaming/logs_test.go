package streaming

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
}

func waiting(reason string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

func ended(id string) corev1.ContainerState {
	if id != "" {
		id = "containerd://" + id
	}
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: id}}
}

// The expectations are kubelet's: which container's log it reads, and its words when there is none.
var _ = DescribeTable("The container whose log is meant",
	func(state, last corev1.ContainerState, previous bool, id, message string) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{
				Name: "c", ContainerID: "containerd://now", State: state, LastTerminationState: last,
			}},
		}}
		found, err := loggedContainer(pod, "c", previous)
		if message != "" {
			Expect(err).To(MatchError(message))
			return
		}
		Expect(err).NotTo(HaveOccurred())
		Expect(found).To(Equal(id))
	},
	Entry("is the running one", running(), ended("before"), false, "now", ""),
	Entry("is the one before on request", running(), ended("before"), true, "before", ""),
	Entry("is the ended one", ended("now"), ended("before"), false, "now", ""),
	Entry("is the last that ran when the next never started", ended(""), ended("before"), false, "before", ""),
	Entry("is the last that ran while the next waits", waiting("CrashLoopBackOff"), ended("before"), false, "before", ""),
	Entry("is none before the first", running(), corev1.ContainerState{}, true, "", `previous terminated container "c" in pod "p" not found`),
	Entry("is none when it never ran", ended(""), corev1.ContainerState{}, false, "", `container "c" in pod "p" is terminated`),
	Entry("is none while it waits", waiting("PodInitializing"), corev1.ContainerState{}, false, "", `container "c" in pod "p" is waiting to start: PodInitializing`),
	Entry("is none while its image fails", waiting("ErrImagePull"), corev1.ContainerState{}, false, "", `container "c" in pod "p" is waiting to start: image can't be pulled`),
	Entry("is none while its image is retried", waiting("ImagePullBackOff"), corev1.ContainerState{}, false, "", `container "c" in pod "p" is waiting to start: trying and failing to pull image`),
	Entry("is none without a state", corev1.ContainerState{}, corev1.ContainerState{}, false, "", `container "c" in pod "p" is waiting to start - no logs yet`),
)

var _ = Describe("The options of a log", func() {
	It("say since when by a duration or a time", func() {
		now := time.Now()
		Expect(readOptions(&corev1.PodLogOptions{SinceSeconds: new(int64(60))}, now).Since).To(BeTemporally("==", now.Add(-time.Minute)))
		since := metav1.NewTime(now.Add(-time.Hour))
		Expect(readOptions(&corev1.PodLogOptions{SinceTime: &since}, now).Since).To(BeTemporally("==", since.Time))
		Expect(readOptions(&corev1.PodLogOptions{}, now).Since).To(BeZero())
	})
})
