package scheme

import (
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	dschedulingv1 "drayage.dev/apis/scheduling/v1"
)

// New returns a scheme that knows every Drayage kind and client-go's.
func New() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme,
		dcorev1.AddToScheme,
		ddiscoveryv1.AddToScheme,
		dappsv1.AddToScheme,
		dpolicyv1.AddToScheme,
		dschedulingv1.AddToScheme,
		dnetworkingv1alpha1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	return s
}
