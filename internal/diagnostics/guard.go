package diagnostics

import (
	"context"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

const (
	// reviewTTL is how long a review's answer counts, and so how long a token or a right that was taken away still
	// works.
	reviewTTL     = 10 * time.Second
	reviewTimeout = 10 * time.Second
)

// guard lets through to next who may, by the API server's word, do with a URL what the request does. Members of
// system:masters may everything, without a question: a process that is not allowed to ask can still be looked into by
// the administrator's certificate.
func (c Config) guard(ctx context.Context, next http.Handler) (http.Handler, error) {
	client, err := kubernetes.NewForConfig(c.RESTConfig)
	if err != nil {
		return nil, err
	}
	backoff := &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 3}
	authentication := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous: &apiserver.AnonymousAuthConfig{Enabled: false}, CacheTTL: reviewTTL,
		TokenAccessReviewClient: client.AuthenticationV1(), TokenAccessReviewTimeout: reviewTimeout, WebhookRetryBackoff: backoff,
	}
	if c.ClientCAFile != "" {
		authority, err := dynamiccertificates.NewDynamicCAContentFromFile("diagnostics-clients", c.ClientCAFile)
		if err != nil {
			return nil, err
		}
		go authority.Run(ctx, 1)
		authentication.ClientCertificateCAContentProvider = authority
	}
	authenticator, _, err := authentication.New()
	if err != nil {
		return nil, err
	}
	reviews, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(), AllowCacheTTL: reviewTTL, DenyCacheTTL: reviewTTL, WebhookRetryBackoff: backoff,
	}.New()
	if err != nil {
		return nil, err
	}
	authorization := union.New(authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup), reviews)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, known, err := authenticator.AuthenticateRequest(r)
		if err != nil || !known {
			if err != nil {
				c.Log.V(1).Info("Did not know a caller", "path", r.URL.Path, "err", err.Error())
			}
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		decision, _, err := authorization.Authorize(r.Context(), authorizer.AttributesRecord{
			User: who.User, Verb: strings.ToLower(r.Method), Path: r.URL.Path,
		})
		if decision != authorizer.DecisionAllow {
			if err != nil {
				c.Log.Error(err, "Could not ask whether a caller may read", "path", r.URL.Path, "user", who.User.GetName())
			}
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	}), nil
}
