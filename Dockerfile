# One container image for producer, worker and Flower. TORCH=cpu installs PyTorch's CPU wheels, a tenth of the size.
FROM python:3.12-slim AS build
ARG TORCH=cuda
WORKDIR /src
RUN python -m venv /opt/captionmill
ENV PATH=/opt/captionmill/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
# Without dependencies: the second pip installs them, because the CPU index may lack the versions of constraints.txt.
RUN if [ "$TORCH" = cpu ]; then \
      pip install --no-deps --constraint constraints.txt torch torchvision \
        --index-url https://download.pytorch.org/whl/cpu; \
    fi
COPY captionmill.py ./
COPY captioning captioning
COPY producer producer
COPY worker worker
COPY training training
COPY migrations migrations
RUN pip install --constraint constraints.txt '.[monitoring,formats]'

FROM python:3.12-slim
COPY --from=build /opt/captionmill /opt/captionmill
ENV PATH=/opt/captionmill/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 captionmill && install -d -o captionmill /data
USER captionmill
WORKDIR /home/captionmill
CMD ["worker"]
