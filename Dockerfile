# Drayage's image. `make image` assembles the same without a Docker engine.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY apis/go.mod apis/go.sum apis/
RUN go mod download
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev libseccomp-dev
COPY . .
RUN make build runtime

FROM scratch
COPY --from=build /src/bin/dray /src/bin/dray-manager /src/bin/dray-scheduler /src/bin/dray-agent /src/bin/dray-dns /src/bin/dray-cni /usr/local/bin/
COPY --from=build /src/bin/runtime/containerd /src/bin/runtime/containerd-shim-runc-v2 /src/bin/runtime/runc /usr/local/bin/
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/dray"]
